"""How likely a model finds the tokens of a prompt, packed: an evaluation has millions of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["PromptScores", "TokenScore"]


class TokenScore(NamedTuple):
    """Of one token that a prompt has: its natural-log probability, how many tokens are as likely
    at least (1: it is the likeliest; of equals the lower id comes first), and the likeliest ones.
    """

    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class PromptScores:
    """Of R tokens in a row, with the likeliest ``num_top`` at each place; in native byte order."""

    num_top: int
    #: float32 (R,), int32 (R,), int32 (R, num_top), float32 (R, num_top).
    logprobs: bytes
    ranks: bytes
    top_ids: bytes
    top_logprobs: bytes

    def __len__(self) -> int:
        return len(self.logprobs) // 4

    def __iter__(self) -> Iterator[TokenScore]:
        logprobs, values = (memoryview(one).cast("f") for one in (self.logprobs, self.top_logprobs))
        ranks, ids = (memoryview(one).cast("i") for one in (self.ranks, self.top_ids))
        pairs = list(zip(ids, values, strict=True))
        for place, (logprob, rank) in enumerate(zip(logprobs, ranks, strict=True)):
            first = place * self.num_top
            yield TokenScore(logprob, rank, tuple(pairs[first : first + self.num_top]))
