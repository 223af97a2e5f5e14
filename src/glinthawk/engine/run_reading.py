"""A run as it stands, read beside it."""

import time
from contextlib import suppress

from glinthawk.engine.run import Run
from glinthawk.telemetry.reading import Reading

__all__ = ["read_run"]


def read_run(run: Run) -> Reading:
    """From any thread, at any time: nobody waits for it, and nothing is asked of workers."""
    scheduler = run.engine.scheduler
    counts = scheduler.counts
    used, room = _read_kv(run)
    return Reading(
        at_s=time.perf_counter(),
        tokens=counts.tokens,
        running=scheduler.num_living,
        waiting=len(scheduler.waiting),
        in_flight=scheduler.num_batches,
        most_in_flight=scheduler.limits.batches_in_flight,
        kv_used=used,
        kv_room=room,
        batches=counts.batches,
        cramped=counts.cramped,
        preemptions=counts.preemptions,
        input_s=run.engine.input_s,
        glance=run.glance(),
    )


def _read_kv(run: Run) -> tuple[dict[int, int], dict[int, int]]:
    scheduler = run.engine.scheduler
    used, room = {}, {}
    for home in scheduler.homes:
        with suppress(KeyError):  # it was lost meanwhile
            used[home], room[home] = scheduler.kv_tokens(home)
    return used, room
