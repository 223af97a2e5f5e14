"""A small plan for the demo."""

from pathlib import Path

from glinthawk.core.plan import Plan

__all__ = ["make_plan"]


def make_plan(path: Path, **settings: object) -> Path:
    """Two workers, unless ``settings`` say otherwise."""
    fields = {
        "model": "demo",
        "kv_dtype": "float32",
        "workers_per_slice": 2,
        "batch_size": 16,
        "batches_in_flight": 2,
        "batch_tokens": 256,
        "tier1_kv": 0,
        "worker_kv": 32 << 20,
    }
    Plan(**(fields | settings)).save(path)
    return path
