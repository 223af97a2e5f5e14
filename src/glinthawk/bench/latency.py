"""Two tiers over links of different length, decoding in steady state with KV to spare.

The same batches, in one session, over a relay whose delay changes: the latencies take turns in
rounds, and a figure is the median of its windows. As many batches are under way as ``auto`` takes
for the round trip that is measured.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from glinthawk.bench.decoding import Decoding, dense_seconds
from glinthawk.bench.layouts import far_worker_on, kv_bytes, on_cores, open_home
from glinthawk.bench.relay import Relay
from glinthawk.engine.tuning import round_trip
from glinthawk.scheduler.batch_limits import MOST_IN_FLIGHT, batches_to_hide
from glinthawk.tier1.kv.remote import RemoteHome
from glinthawk.tier1.model.loader import LoadedModel

__all__ = ["LatencyPlan", "LatencyRow", "measure_links"]

_Write = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class LatencyPlan:
    """Batches of ``batch`` sequences of ``context`` tokens; in each of the ``rounds``, a window of
    ``seconds`` at least and ``steps`` steps of each batch for every latency."""

    model: str = "M"
    context: int = 64
    batch: int = 128
    #: Milliseconds each way; shares are of the first one's speed.
    latencies: tuple[int, ...] = (0, 2, 10, 50, 100)
    rounds: int = 3
    seconds: float = 2.0
    steps: int = 2


@dataclass(frozen=True, slots=True)
class LatencyRow:
    """Generated tokens a second over a link of ``ms`` each way."""

    ms: int
    #: From a question to its answer, as measured.
    round_trip_ms: float
    batches: int
    tokens_per_s: float
    #: Of the speed without latency: the median over the rounds.
    share: float
    #: Between the fastest and the slowest window, over the median.
    spread: float


def measure_links(
    plan: LatencyPlan, loaded: LoadedModel, cores: list[int], write: _Write
) -> list[LatencyRow]:
    """A link for each latency of ``plan``: Tier 1 on the first core, the worker on the others."""
    with on_cores(cores[:1]):
        step_s = dense_seconds(loaded, plan.batch)
    write(
        f"batches of {plan.batch} at context {plan.context}; "
        f"roof: dense step {plan.batch / step_s:.1f} tokens/s"
    )
    most = plan.batch * MOST_IN_FLIGHT  # memory is taken as it is used
    num_bytes = kv_bytes(loaded.spec.layers, most, plan.context, loaded.spec.dtype)
    with (
        far_worker_on(cores[1:] or cores, num_bytes) as (address, relay),
        on_cores(cores[:1]),
        open_home(address, loaded, loaded.spec.dtype) as home,
    ):
        trips = [_round_trip(relay, home, ms) for ms in plan.latencies]
        layer_s = step_s / len(loaded.spec.layers)
        batches = [batches_to_hide(trip, layer_s) for trip in trips]
        decoding = Decoding(loaded, home, plan.context, [plan.batch] * max(batches))
        speeds = _take_turns(plan, relay, decoding, batches)
    links: list[LatencyRow] = []
    for ms, trip, count, windows in zip(plan.latencies, trips, batches, speeds, strict=True):
        links.append(_link(ms, trip, count, windows, speeds[0]))
        write(_describe(links[-1]))
    return links


def _round_trip(relay: Relay, home: RemoteHome, ms: int) -> float:
    relay.set_delay(1e-3 * ms)
    return round_trip(home.link)


def _take_turns(
    plan: LatencyPlan, relay: Relay, decoding: Decoding, batches: list[int]
) -> list[list[float]]:
    """Tokens a second of every window, a list for each latency."""
    speeds: list[list[float]] = [[] for _ in plan.latencies]
    for _ in range(plan.rounds):
        for windows, ms, count in zip(speeds, plan.latencies, batches, strict=True):
            relay.set_delay(1e-3 * ms)
            windows.append(decoding.speed(plan.seconds, plan.steps, count))
    return speeds


def _link(
    ms: int, trip_s: float, batches: int, windows: list[float], base: list[float]
) -> LatencyRow:
    """``base`` are the windows without latency, each in the same round as one of ``windows``."""
    speed = statistics.median(windows)
    share = statistics.median(here / there for here, there in zip(windows, base, strict=True))
    return LatencyRow(
        ms,
        round(1e3 * trip_s, 2),
        batches,
        round(speed, 1),
        round(share, 3),
        round((max(windows) - min(windows)) / speed, 3),
    )


def _describe(link: LatencyRow) -> str:
    return (
        f"{link.ms} ms each way (round trip {link.round_trip_ms:.1f} ms), {link.batches} batches: "
        f"{link.tokens_per_s:.1f} tokens/s, {link.share:.3f} of that without latency "
        f"(windows within {link.spread:.1%})"
    )
