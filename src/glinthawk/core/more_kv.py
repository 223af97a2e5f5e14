"""What people are told to do whose sequence has no room in any place."""

from glinthawk.core.config import RAY, EngineConfig
from glinthawk.core.units import parse_size

__all__ = ["advise_more_kv"]


def advise_more_kv(config: EngineConfig) -> str:
    """What gives one sequence more room: it has to fit in one place."""
    if config.cluster not in (None, RAY):
        return f"raise worker_kv or tier1_kv in {config.cluster}, or --kv of workers it joins"
    is_local = [place.startswith("local:") for place in config.tier2]
    starts = any(is_local) or (config.cluster == RAY and config.workers_per_slice != 0)
    ways = {
        "raise --tier1-kv": parse_size(config.tier1_kv or 0) > 0 or not (config.tier2 or starts),
        "raise --worker-kv": starts,
        "start workers with a larger --kv": not all(is_local),
    }
    return " or ".join(way for way, leads_there in ways.items() if leads_there)
