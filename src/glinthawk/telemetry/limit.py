"""What bound a run."""

from glinthawk.telemetry.stats import RunStats

__all__ = ["name_limit"]

_BUSY = 0.85
_OFTEN = 0.5
_MUCH = 0.1


def name_limit(stats: RunStats) -> str:
    """The limit that a faster run would have to move, in words for a person.

    A tier that is busy nearly all the time binds. Tier 1 binds by its arithmetic, unless its
    batches are small because the KV memory holds no more sequences: then that does.
    """
    if stats.input_share >= _MUCH:
        return "input: reading and tokenizing lines"
    if stats.kv_full_share >= _OFTEN:
        return "KV memory: more sequences wait than fit (--worker-kv, --tier1-kv, more workers)"
    if stats.tier1_busy >= _BUSY:
        return "Tier-1 arithmetic"
    if max(stats.tier2_busy, default=0.0) >= _BUSY:
        return "Tier-2 bandwidth: attention takes as long as there is (more workers, int8 KV)"
    if stats.tier2_busy:
        return "the link, or too few sequences to hide it (--batches-in-flight, larger jobs)"
    return "too few sequences to fill a batch"
