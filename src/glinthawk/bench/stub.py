"""What the engine itself takes for a step: a Tier 1 that answers everything at once."""

import time

from glinthawk.core.batch import Batch
from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.engine.engine import Engine
from glinthawk.engine.tier import Done, TierEvent
from glinthawk.scheduler.batch_limits import BatchLimits
from glinthawk.scheduler.commands import HomeJoined
from glinthawk.scheduler.step_cost import StepCost
from glinthawk.telemetry.usage import Usage
from glinthawk.tier1.sampler import Sampled

__all__ = ["Instant", "engine_seconds"]

_PROMPT, _NEW, _ROUNDS = 32, 64, 3


class Instant:
    """Tier 1 without a model."""

    is_expecting = False
    last_words = ""

    def __init__(self, num_pages: int) -> None:
        self._num_pages = num_pages
        self._running: list[Batch] = []

    @property
    def num_running(self) -> int:
        return len(self._running)

    def homes(self) -> list[HomeJoined]:
        return [HomeJoined(1, self._num_pages, PAGE_TOKENS)]

    def start(self, batch: Batch) -> None:
        self._running.append(batch)

    def release(self, home: int, sequences: list[int]) -> None: ...

    def abort(self, batch_id: int) -> None: ...

    def lose(self, home: int) -> None: ...

    def reset(self) -> None:
        self._running.clear()

    def poll(self, timeout_s: float | None = None) -> list[TierEvent]:
        batch = self._running.pop(0)
        return [Done(batch, [(Sampled(7),) for _ in batch.spans])]

    def step_cost(self) -> StepCost | None:
        return None

    def usage(self) -> Usage:
        return Usage([0.0])


def engine_seconds(rows: int) -> float:
    """Of one step of ``rows`` sequences, prompts and ends of sequences included."""
    count = _ROUNDS * rows
    tier1 = Instant(count * (_PROMPT + _NEW) // PAGE_TOKENS)
    engine = Engine(tier1, BatchLimits(rows, 1, 1 << 20))
    params = SamplingParams(max_tokens=_NEW, temperature=0)
    requests = (Request(n, (n,) * _PROMPT, params, 0, _NEW) for n in range(count))
    begun = time.perf_counter()
    for _ in engine.generate(requests):
        pass
    return (time.perf_counter() - begun) / (_ROUNDS * _NEW)
