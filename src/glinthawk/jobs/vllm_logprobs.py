"""Log-probabilities in vLLM's shape: a dictionary a token, of itself and of the likeliest ones."""

from dataclasses import dataclass

from glinthawk.core.prompt_scores import TokenScore
from glinthawk.core.sequence import Sequence
from glinthawk.jobs.logprobs import FLOOR
from glinthawk.jobs.text import Text

__all__ = [
    "Logprob",
    "PromptLogprobs",
    "SampleLogprobs",
    "prompt_logprobs",
    "prompt_scores",
    "sample_logprobs",
]


@dataclass(frozen=True, slots=True)
class Logprob:
    """Of a token at one place: its natural-log probability, its rank among all (1: the likeliest),
    and what it says on its own."""

    logprob: float
    rank: int
    decoded_token: str


#: By token ids, the token that is there first; None for a prompt's first, which nothing comes
#: before.
PromptLogprobs = list[dict[int, Logprob] | None]
SampleLogprobs = list[dict[int, Logprob]]


def prompt_logprobs(sequence: Sequence, text: Text, num_top: int) -> PromptLogprobs:
    """Of the prompt of ``sequence``, which was scored with ``num_top`` alternatives or more."""
    prompt = sequence.request.prompt
    pairs = zip(prompt[1:], prompt_scores(sequence), strict=True)
    return [None, *(_entry(token, score, text, num_top) for token, score in pairs)]


def prompt_scores(sequence: Sequence) -> list[TokenScore]:
    """Of all tokens but the first."""
    return [score for part in sequence.scores for score in part]


def sample_logprobs(sequence: Sequence, text: Text) -> SampleLogprobs:
    """Of the answer of ``sequence``, for which log-probabilities were asked."""
    return [
        _entry(one.token, TokenScore(one.logprob, one.rank, one.top), text, len(one.top))
        for one in sequence.logprobs
    ]


def _entry(token: int, score: TokenScore, text: Text, num_top: int) -> dict[int, Logprob]:
    said = {token: Logprob(max(score.logprob, FLOOR), score.rank, text.token_text(token))}
    for rank, (other, logprob) in enumerate(score.top[:num_top], start=1):
        said.setdefault(other, Logprob(max(logprob, FLOOR), rank, text.token_text(other)))
    return said
