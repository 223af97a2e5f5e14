"""A run of greedy requests in which something dies."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from glinthawk.core.config import EngineConfig, SplitAttention
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.engine.run import Run
from zygote import children

__all__ = ["answer", "config", "requests"]


def requests(count: int) -> list[Request]:
    params = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    prompts = [tuple(range(3 + i, 9 + 2 * i)) for i in range(count)]
    return [Request(i, prompt, params, 0, 40 - i) for i, prompt in enumerate(prompts)]


def answer(
    run: Run, *, kill_after: int | None = None, victims: Sequence[int] = ()
) -> dict[int, list[int]]:
    """All answers; after ``kill_after`` of them ``victims`` get SIGKILL, or the youngest child."""
    answers = {}
    for sequence in run.engine.generate(requests(24)):
        answers[sequence.request.id] = sequence.output
        if len(answers) == kill_after:
            for victim in victims or [max(children())]:
                os.kill(victim, signal.SIGKILL)
        run.engine.scheduler.validate()
    return answers


def config(
    model: Path, places: str, tier1_kv: str = "0", split: SplitAttention = "sequence"
) -> EngineConfig:
    return EngineConfig(
        model=str(model),
        tier2=(places,),
        tier1_kv=tier1_kv,
        worker_kv="4MiB",
        batch_size=4,
        split_attention=split,
    )
