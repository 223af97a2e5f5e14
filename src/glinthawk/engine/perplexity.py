"""How well a model foretells a text."""

import math
from collections.abc import Iterable

from glinthawk.core.config import EngineConfig
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.engine.run import open_run

__all__ = ["cut_windows", "measure_perplexity"]

_SCORED = SamplingParams(max_tokens=0, prompt_logprobs=0)


def cut_windows(tokens: tuple[int, ...], length: int) -> list[tuple[int, ...]]:
    """Of ``length`` tokens each; a last one that is shorter counts if it has two."""
    windows = [tokens[start : start + length] for start in range(0, len(tokens), length)]
    return [window for window in windows if len(window) > 1]


def measure_perplexity(config: EngineConfig, windows: Iterable[tuple[int, ...]]) -> float:
    """exp of the mean loss of all tokens but each window's first. Raises ValueError if there are
    none."""
    requests = [Request(n, window, _SCORED, 0, 0) for n, window in enumerate(windows)]
    losses: list[float] = []
    with open_run(config) as run:
        for sequence in run.engine.generate(requests):
            losses += [-score.logprob for part in sequence.scores for score in part]
    if not losses:
        raise ValueError("a text of two tokens at least is needed")
    return math.exp(math.fsum(losses) / len(losses))
