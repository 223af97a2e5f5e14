"""Tier 1 as the engine sees it: takes batches, and tells what became of them and of its homes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from glinthawk.core.batch import Batch
from glinthawk.core.prompt_scores import PromptScores
from glinthawk.scheduler.commands import HomeJoined, HomeLeaving, HomeLost
from glinthawk.scheduler.step_cost import StepCost
from glinthawk.telemetry.usage import Usage
from glinthawk.tier1.sampler import Sampled

__all__ = ["Done", "ModelFacts", "Tier1", "TierEvent"]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What answers depend on, of a model that is loaded, here or over nodes."""

    #: Of the weights.
    dtype: str
    vocab_size: int
    #: Longest prompt plus answer, and what that may be raised to.
    max_model_len: int
    longest_len: int
    #: What the bits of answers depend on, of a batch-invariant run.
    arithmetic: str


@dataclass(frozen=True, slots=True)
class Done:
    """A batch took its step: tokens of every span, in the batch's order, and of those spans of
    which rows were scored, what came of it."""

    batch: Batch
    sampled: list[tuple[Sampled, ...]]
    scores: Sequence[PromptScores] = ()
    #: Of those spans of which rows were pooled, what was added up.
    pooled: Sequence[bytes] = ()


TierEvent = Done | HomeLost | HomeLeaving | HomeJoined


class Tier1(Protocol):
    """One node in this process, or several in a row elsewhere.

    A home that is lost takes part in nothing from then on, batches on it stand still, until the
    engine has answered with ``abort`` for each of them and ``lose``; then it may join again.
    """

    @property
    def num_running(self) -> int:
        """Batches under way."""
        ...

    @property
    def is_expecting(self) -> bool:
        """Whether homes may join that are not there now."""
        ...

    @property
    def last_words(self) -> str:
        """Of processes that died and are not there again; empty, if there are none."""
        ...

    def homes(self) -> list[HomeJoined]:
        """Those there are at the beginning."""
        ...

    def start(self, batch: Batch) -> None:
        """Take a batch."""
        ...

    def release(self, home: int, sequences: list[int]) -> None:
        """Forget the KV of ``sequences`` at a home."""
        ...

    def abort(self, batch_id: int) -> None:
        """Stop a batch where it is; its spans may be stepped again in another batch."""
        ...

    def lose(self, home: int) -> None:
        """The engine knows that a home is lost, or has emptied one that wants to go."""
        ...

    def reset(self) -> None:
        """Forget all batches and all KV, whatever an interruption left half done. Homes are lost
        without a word, and join again."""
        ...

    def poll(self, timeout_s: float | None = None) -> list[TierEvent]:
        """What happened. Waits until something did, or for ``timeout_s``; not if nothing runs and
        no time is given. Raises GlinthawkError when it cannot go on."""
        ...

    def step_cost(self) -> StepCost | None:
        """What steps cost, if the scheduler may decide by it."""
        ...

    def usage(self) -> Usage:
        """What was done so far."""
        ...
