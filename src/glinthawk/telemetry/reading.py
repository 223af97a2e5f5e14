"""What a run has come to at one moment, for whoever looks on while it goes on."""

from dataclasses import dataclass, field

__all__ = ["Glance", "Reading"]


@dataclass(slots=True)
class Glance:
    """Sums of what Tier 1 knows without asking: seconds that it was busy itself, seconds that each
    worker attended, by home, and bytes over all links. A worker that comes again begins at 0."""

    tier1_busy_s: float
    tier2_busy_s: dict[int, float] = field(default_factory=dict)
    bytes_out: int = 0
    bytes_back: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Sums and numbers. It is taken while the run goes on, so that they may be some steps apart."""

    #: Of the clock that rates are of.
    at_s: float
    #: Generated so far.
    tokens: int
    #: Sequences with KV, and those that wait for it.
    running: int
    waiting: int
    in_flight: int
    most_in_flight: int
    #: By home, tokens of KV: used, and in all. Home 0 is Tier 1's own memory.
    kv_used: dict[int, int]
    kv_room: dict[int, int]
    #: Batches so far, and those of them that were kept small by too little KV memory.
    batches: int
    cramped: int
    preemptions: int
    #: Seconds in which requests were read.
    input_s: float
    #: None where loads are not known, as before the nodes of a cluster have told theirs.
    glance: Glance | None
