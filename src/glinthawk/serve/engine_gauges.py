"""What metrics say of the engine and of batches, asked at every reading."""

from collections.abc import Mapping

from glinthawk.engine.shared_engine import SharedEngine
from glinthawk.serve.record_store import RecordStore

__all__ = ["Readings", "read_gauges"]

#: By name; a mapping has a value for each status. Names that end with _total only grow.
Readings = Mapping[str, float | Mapping[str, float]]


def read_gauges(engine: SharedEngine, num_pages: int, store: RecordStore) -> Readings:
    """``num_pages`` are those of KV in all."""
    scheduler = engine.run.engine.scheduler
    pages_used = sum(scheduler.num_pages_used(home) for home in scheduler.homes)
    return {
        "num_requests_running": scheduler.num_living,
        "num_requests_waiting": len(scheduler.waiting),
        "kv_cache_usage_perc": min(1.0, pages_used / max(1, num_pages)),
        "num_preemptions_total": scheduler.counts.preemptions,
        "prefix_cache_hits_total": scheduler.counts.shared_tokens,
        "batches": store.count_batches(),
    }
