"""Closed forms: what balances Tier 1 and drives, and what drives read."""

__all__ = ["read_share", "rebuilt_share"]


def rebuilt_share(storage_s: float, rebuild_s: float, busy_s: float = 0.0) -> float:
    """Share a of the context whose keys and values Tier 1 makes again from layer inputs that its
    host's memory keeps: (1 - a) storage_s = busy_s + a rebuild_s, so that drives and Tier 1 end
    together; 0 to 1. Seconds are of a whole step's context: that drives read it all, that Tier 1
    makes it all and attends to it, and ``busy_s`` that Tier 1 works in any case.

    First principles. INF^2 (arXiv 2502.09921) has another layout: there inputs come off the drives
    too, and the accelerator has nothing else to do.

    >>> rebuilt_share(3.0, 1.0), rebuilt_share(3.0, 1.0, 1.0), rebuilt_share(1.0, 1.0, 2.0)
    (0.75, 0.5, 0.0)
    """
    if storage_s <= busy_s:
        return 0.0
    return min(1.0, (storage_s - busy_s) / (storage_s + rebuild_s))


def read_share(memory: float, held: float) -> float:
    """Share of the KV at a worker that comes from its drives at every step: all but what memory
    has, which is the same for every step, as every step reads all of its sequences' KV once.

    >>> read_share(25, 100), read_share(100, 50)
    (0.75, 0.0)
    """
    return max(0.0, 1 - memory / held) if held else 0.0
