"""What bound a run."""

from dataclasses import dataclass

from glinthawk.telemetry.stats import RunStats

__all__ = ["Limit", "find_limit", "name_limit"]

_BUSY = 0.85
_OFTEN = 0.5
_MUCH = 0.1


@dataclass(frozen=True, slots=True)
class Limit:
    """``name`` is a line of a summary, ``advice`` a sentence for who wants to move it."""

    name: str
    advice: str


_INPUT = Limit(
    "input: reading and tokenizing lines",
    "Tier 1 waits for prompts. More --text-processes help a job, or a machine with faster cores.",
)
_KV = Limit(
    "KV memory: more sequences wait than fit (--worker-kv, --tier1-kv, more workers)",
    "Every batch would be larger if there were more KV memory: start more workers, or give more by "
    "--worker-kv or --tier1-kv.",
)
_TIER1 = Limit(
    "Tier-1 arithmetic",
    "Tier 1 is busy all the time: only a faster Tier 1 makes it faster.",
)
_TIER2 = Limit(
    "Tier-2 bandwidth: attention takes as long as there is (more workers, int8 KV)",
    "Workers attend all the time: start more of them, or halve what they read by --kv-dtype int8.",
)
_LINK = Limit(
    "the link, or too few sequences to hide it (--batches-in-flight, larger jobs)",
    "Tier 1 waits for workers that are not busy: more batches in flight (--batches-in-flight) or "
    "more requests at a time hide the way to them.",
)
_FEW = Limit(
    "too few sequences to fill a batch",
    "There is room for more: hand in more requests at a time.",
)


def find_limit(stats: RunStats) -> Limit:
    """The limit that a faster run would have to move.

    A tier that is busy nearly all the time binds. Tier 1 binds by its arithmetic, unless its
    batches are small because the KV memory holds no more sequences: then that does.
    """
    if stats.input_share >= _MUCH:
        return _INPUT
    if stats.kv_full_share >= _OFTEN:
        return _KV
    if stats.tier1_busy >= _BUSY:
        return _TIER1
    if max(stats.tier2_busy, default=0.0) >= _BUSY:
        return _TIER2
    return _LINK if stats.tier2_busy else _FEW


def name_limit(stats: RunStats) -> str:
    """The same in words for a person."""
    return find_limit(stats).name
