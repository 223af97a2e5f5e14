"""KV on drives: attention near storage, write-back, and what beats fetching, on one drive."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bench.near_storage import (
    AttentionRow,
    WriteBack,
    measure_attention,
    measure_write_back,
)
from bench.placements import Placed, measure_placements
from glinthawk.bench.random_models import load_shape
from glinthawk.core.spec import AttentionLayer

__all__ = ["DrivesPlan", "run"]

_Write = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DrivesPlan:
    """``O`` is a multi-head model, ``M`` has 3 query heads for each KV head."""

    models: tuple[str, ...] = ("O", "M")
    contexts: tuple[int, ...] = (1024, 4096, 8192)
    kv_bytes: int = 1 << 30
    rounds: int = 7
    write_back_bytes: int = 256 << 20
    write_back_steps: int = 64
    context: int = 4096
    sequences: int = 8
    alphas: tuple[float, ...] = (0.25, 0.5)
    seconds: float = 5.0
    placement_rounds: int = 3
    #: Of the drive's own speed.
    link_share: float = 0.2

    @classmethod
    def quick(cls) -> "DrivesPlan":
        """A look in a minute."""
        return cls(
            models=("O",),
            contexts=(1024,),
            kv_bytes=80 << 20,
            rounds=1,
            write_back_bytes=32 << 20,
            write_back_steps=2,
            context=1024,
            sequences=4,
            alphas=(0.5,),
            seconds=0.2,
            placement_rounds=1,
        )


def run(write: _Write, folder: Path, *, quick: bool = False) -> None:
    """Measure, and write lines as they come; the last one is a JSON object."""
    plan = DrivesPlan.quick() if quick else DrivesPlan()
    cores = sorted(os.sched_getaffinity(0))[:2]
    torch.manual_seed(0)
    torch.set_num_threads(len(cores))
    rows, placements = [], []
    for name in plan.models:
        loaded = load_shape(name)
        attended = _attention(plan, name, folder, loaded.spec.layers, write)
        link_bytes_per_s = plan.link_share * 1e9 * max(row.roof_gbps for row in attended)
        placed = measure_placements(
            loaded,
            folder,
            cores,
            context=plan.context,
            sequences=plan.sequences,
            link_bytes_per_s=link_bytes_per_s,
            alphas=plan.alphas if name == "O" else (),
            seconds=plan.seconds,
            rounds=plan.placement_rounds,
        )
        for one in placed:
            write(_describe(name, one, placed[1]))
        rows += [{"model": name, **asdict(row)} for row in attended]
        placements += [{"model": name, **asdict(one)} for one in placed]
    back = _write_back(plan, folder, loaded.spec.layers, write)
    summary = {
        "rows": rows,
        "placements": placements,
        "speedup_over_fetch": {name: _speedup(placements, name) for name in plan.models},
        "write_back": asdict(back),
    }
    write(json.dumps(summary))


def _attention(
    plan: DrivesPlan, name: str, folder: Path, layers: Sequence[AttentionLayer], write: _Write
) -> list[AttentionRow]:
    rows = []
    for context in plan.contexts:
        rows.append(measure_attention(folder, layers, plan.kv_bytes, context, plan.rounds))
        row = rows[-1]
        write(
            f"{name}, {row.sequences} sequences of {context}: roof {row.roof_gbps:.2f} GB/s, "
            f"attention {row.gbps:.2f} GB/s, {row.ratio:.2f} of it; "
            f"{row.written:.2f} bytes written a byte made"
        )
    return rows


def _write_back(
    plan: DrivesPlan, folder: Path, layers: Sequence[AttentionLayer], write: _Write
) -> WriteBack:
    sizes = (plan.write_back_bytes, plan.context, plan.write_back_steps)
    back = measure_write_back(folder, layers, *sizes)
    write(
        f"write-back: a step costs {back.cost:+.1%}; {back.written:.3f} bytes written a byte made"
    )
    return back


def _describe(name: str, one: Placed, fetch: Placed) -> str:
    return (
        f"{name}, {one.placement}, {one.sequences} sequences of {one.context}, link "
        f"{one.link_gbps:.2f} GB/s: {one.tokens_per_s:.1f} tokens/s, "
        f"{one.tokens_per_s / fetch.tokens_per_s:.2f} times fetch; {one.link_bytes:,.0f} bytes "
        f"over the link a token, 1/{fetch.link_bytes / one.link_bytes:.1f} of fetch"
    )


def _speedup(placements: Sequence[Mapping[str, Any]], model: str) -> float:
    of_model = [one for one in placements if one["model"] == model]
    speeds = {one["placement"]: one["tokens_per_s"] for one in of_model}
    return round(float(speeds["near"] / speeds["fetch"]), 2)
