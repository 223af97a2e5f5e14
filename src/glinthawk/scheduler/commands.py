"""What the scheduler hears and what it asks for. Events are past tense, commands imperative."""

from dataclasses import dataclass

from glinthawk.core.batch import Batch
from glinthawk.core.sequence import Sequence
from glinthawk.scheduler.step_cost import StepCost

__all__ = [
    "Abort",
    "Command",
    "Dismiss",
    "Event",
    "Finish",
    "HomeJoined",
    "HomeLeaving",
    "HomeLost",
    "Paced",
    "Release",
    "Step",
    "Stepped",
    "Submitted",
    "Withdrawn",
]


@dataclass(frozen=True, slots=True)
class HomeJoined:
    """A place for KV is there. Home 0 is Tier 1 itself."""

    home: int
    num_pages: int
    page_tokens: int
    #: That may have KV there at one time; None: as many as there are pages.
    most_sequences: int | None = None


@dataclass(frozen=True, slots=True)
class HomeLeaving:
    """A home wants to go, and does what it is asked until it may."""

    home: int


@dataclass(frozen=True, slots=True)
class HomeLost:
    """A home is gone with all KV it held."""

    home: int


@dataclass(frozen=True, slots=True)
class Submitted:
    """A request wants an answer."""

    sequence: Sequence


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Nobody wants these answers any more; those that there are not are no error."""

    sequences: frozenset[int]


@dataclass(frozen=True, slots=True)
class Stepped:
    """A batch took its step: new tokens of every span, in the batch's order.

    ``stopped`` are sequences whose text, with the last of these tokens, contains a stop string:
    only the engine can see that.
    """

    batch: Batch
    tokens: tuple[tuple[int, ...], ...]
    stopped: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Paced:
    """What steps cost has been measured, again."""

    step_cost: StepCost


Event = HomeJoined | HomeLeaving | HomeLost | Submitted | Withdrawn | Stepped | Paced


@dataclass(frozen=True, slots=True)
class Step:
    """Run this batch."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class Release:
    """Free the KV of these sequences at a home."""

    home: int
    sequences: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Finish:
    """This sequence has its answer."""

    sequence: Sequence


@dataclass(frozen=True, slots=True)
class Abort:
    """Stop this batch; it stood partly on a home that is gone."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class Dismiss:
    """Nobody's KV is at this home any more, nor will be: it may go."""

    home: int


Command = Step | Release | Finish | Abort | Dismiss
