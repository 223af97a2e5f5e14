"""A request and the sequence that answers it."""

from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from operator import add

from glinthawk.core.pooling import Pooling
from glinthawk.core.prompt_scores import PromptScores
from glinthawk.core.sampling import SamplingParams

__all__ = ["FinishReason", "Phase", "Request", "Sequence", "TokenLogprobs"]


@dataclass(frozen=True, slots=True)
class Request:
    """What one answer is asked for: token ids in, rules for the tokens out.

    ``id`` is the asker's own number, and comes back with the answer; ``name`` is what the asker's
    user calls it, if anything (a line's custom_id), for people to find it by. ``seed`` keys the
    random numbers together with the position. ``max_tokens`` is already cut to the room that the
    model and the KV memory leave. ``eos_token_ids`` is empty when the request ignores them.
    """

    id: int
    prompt: tuple[int, ...]
    params: SamplingParams
    seed: int
    max_tokens: int
    eos_token_ids: frozenset[int] = frozenset()
    name: str = ""
    #: Of ``params.bad_words``: tokens that never follow one another in the answer.
    bad_tokens: tuple[tuple[int, ...], ...] = ()
    #: Which of those who share the engine wants it.
    asker: int = 0
    #: Those of smaller numbers are admitted first, and give up KV last.
    priority: int = 0
    #: Whether the asker wants to see its answer grow.
    is_streamed: bool = False
    #: Asks for hidden states of the prompt; then ``max_tokens`` is 0.
    pooling: Pooling | None = None
    #: Number of the LoRA adapter that computes it, from 1; 0: the model itself.
    adapter: int = 0
    #: Token ids that end the answer: end-of-sequence and stop tokens.
    stop_ids: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        own = self.params.stop_token_ids
        stop_ids = self.eos_token_ids | frozenset(own) if own else self.eos_token_ids
        object.__setattr__(self, "stop_ids", stop_ids)

    @property
    def num_to_score(self) -> int:
        """Rows of the prompt that are scored: all but the last, behind which the answer begins."""
        return 0 if self.params.prompt_logprobs is None else len(self.prompt) - 1

    @property
    def pooled_rows(self) -> range:
        """Positions of the prompt's rows that are pooled."""
        return range(0) if self.pooling is None else self.pooling.positions(len(self.prompt))


class Phase(Enum):
    """Where a sequence stands in the scheduler."""

    WAITING = "waiting"  # no KV anywhere
    READY = "ready"  # its KV is at its home; it can take a decode step
    STEPPING = "stepping"  # part of a batch in flight
    FINISHED = "finished"


class FinishReason(Enum):
    """Why an answer ended, in OpenAI's words."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural-log probabilities at one position: of the chosen token, whose rank among all is
    ``rank`` (1: the likeliest), and of the likeliest ones."""

    token: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...]


@dataclass(slots=True, eq=False, weakref_slot=True)
class Sequence:
    """A request in flight. Only the scheduler writes its fields; logprobs, scores and what was
    pooled are the engine's.

    ``id`` is its address in every KV cache, so a run gives each sequence another one: requests of
    different calls may have the same number. It is its request's number where nobody gives it one.
    """

    request: Request
    id: int = -1
    output: list[int] = field(default_factory=list)
    phase: Phase = Phase.WAITING
    #: Which place holds its KV: 0 is Tier 1 itself, workers count from 1.
    home: int | None = None
    #: Tokens at its start whose pages belonged to another sequence when it was admitted.
    shared: int = 0
    #: Tokens at its start whose KV is at its home.
    num_computed: int = 0
    #: Rows at its start that need not be scored any more; they stay so when its KV is given up.
    num_scored: int = 0
    #: Of the rows that are pooled, those that need not be any more, from the first on; likewise.
    num_pooled: int = 0
    #: Number of admissions so far in the run when this one was admitted; the largest is youngest.
    admitted: int = -1
    finish_reason: FinishReason | None = None
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    #: Of the rows that are scored, in order, from the first on.
    scores: list[PromptScores] = field(default_factory=list)
    #: What was pooled, added up: as many numbers as the hidden state has, or as were asked for.
    pooled: "array[float] | None" = None

    def __post_init__(self) -> None:
        if self.id < 0:
            self.id = self.request.id

    @property
    def length(self) -> int:
        """Tokens so far, prompt and output."""
        return len(self.request.prompt) + len(self.output)

    @property
    def remaining(self) -> int:
        """Most tokens it may still produce."""
        return self.request.max_tokens - len(self.output)

    @property
    def needs_rows(self) -> bool:
        """Whether rows of its prompt before the last are still to be scored or pooled: rows that
        another sequence has computed give nothing of that."""
        if self.num_scored < self.request.num_to_score:
            return True
        if self.request.pooling is None:
            return False
        rows = self.request.pooled_rows
        return rows.start + self.num_pooled < min(rows.stop, len(self.request.prompt) - 1)

    def count_unscored(self, start: int, length: int) -> int:
        """Of the ``length`` tokens from ``start`` on, those whose rows are still to be scored."""
        if self.request.params.prompt_logprobs is None:
            return 0
        end = min(start + length, self.request.num_to_score)
        return max(0, end - max(start, self.num_scored))

    def count_unpooled(self, start: int, length: int) -> int:
        """Of the ``length`` tokens from ``start`` on, those whose rows are still to be pooled."""
        if self.request.pooling is None:
            return 0
        rows = self.request.pooled_rows
        end = min(start + length, rows.stop)
        return max(0, end - max(start, rows.start + self.num_pooled))

    def add_pooled(self, part: bytes) -> None:
        """Of some rows more: their sum, in float64 of native byte order."""
        numbers = array("d", part)
        known = self.pooled
        self.pooled = numbers if known is None else array("d", map(add, known, numbers))

    @contextmanager
    def supposing(self, tokens: Iterable[int]) -> Iterator[None]:
        """As if it had some tokens more, within the block."""
        length = len(self.output)
        self.output += tokens
        try:
            yield
        finally:
            del self.output[length:]

    def end_reason(self, stopped: bool) -> FinishReason | None:
        """Why it ends with its newest token, which has come to a stop string or not; None if it
        goes on. A stop beats running out of length."""
        if len(self.output) >= self.request.params.min_tokens and (
            stopped or self.output[-1] in self.request.stop_ids
        ):
            return FinishReason.STOP
        return FinishReason.LENGTH if self.remaining <= 0 else None

    def tokens(self, start: int, length: int) -> list[int]:
        """Token ids at positions ``start`` to ``start + length``."""
        prompt = self.request.prompt
        if start >= len(prompt):
            begin = start - len(prompt)
            return self.output[begin : begin + length]
        return [*prompt, *self.output][start : start + length]
