"""Two tiers over links of different length, decoding in steady state with KV to spare."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict

import torch

from glinthawk.bench.latency import LatencyPlan, measure_links
from glinthawk.bench.random_models import load_shape

__all__ = ["run"]


def run(write: Callable[[str], None], *, quick: bool = False) -> None:
    """Measure, and write lines as they come; the last one is a JSON object."""
    plan = (
        LatencyPlan(batch=32, latencies=(0, 10), rounds=2, seconds=1.0) if quick else LatencyPlan()
    )
    cores = sorted(os.sched_getaffinity(0))[:2]
    torch.manual_seed(0)
    torch.set_num_threads(len(cores))
    links = measure_links(plan, load_shape(plan.model), cores, write)
    write(json.dumps({"model": plan.model, "rows": [asdict(link) for link in links]}))
