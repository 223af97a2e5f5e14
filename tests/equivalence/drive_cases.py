"""Cases most of whose KV is on drives."""

from pathlib import Path
from typing import Any

import torch

from cluster import open_cluster
from glinthawk.core.config import PAGE_TOKENS
from model_cases import NUM_SHORT, Case

__all__ = ["check_answers", "make_case"]

#: Each needs two pages of memory, and there is an eighth of all.
_LONG, _NUM_LONG = 790, 10


def _prompts(num_long: int = _NUM_LONG) -> list[tuple[int, ...]]:
    """Short ones with short answers, then long ones; the last two share most of theirs."""
    generator = torch.Generator().manual_seed(3)
    lengths = [*range(1, NUM_SHORT + 1), *(_LONG - 17 * number for number in range(num_long))]
    prompts = [
        tuple(torch.randint(3, 200, (length,), generator=generator).tolist()) for length in lengths
    ]
    return [*prompts, (*prompts[-1][: 15 * PAGE_TOKENS], 7, 8, 9)]


def make_case(folder: Path, family: str, num_long: int = _NUM_LONG) -> Case:
    return Case(folder, family, _prompts(num_long), max_position_embeddings=1024)


def check_answers(case: Case, folder: Path, **options: Any) -> None:
    """Most of the KV of ``case`` is on drives; it is answered as by the model itself."""
    memory = {"worker_pages": 24, "worker_storage": 16 << 20}
    with open_cluster(case.loaded, folder, batches_in_flight=2, **{**memory, **options}) as run:
        answers = {s.id: s.output for s in run.engine.generate(case.requests())}
        run.engine.scheduler.validate()
    assert answers == case.expected()
