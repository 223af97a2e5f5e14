"""Where KV on a drive is attended: near it, on Tier 1 after a fetch, or in part as X on Tier 1.

One worker with a drive behind a link that carries a fifth of what the drive reads, as if many
drives were behind it (INF^2, arXiv 2502.09921); each kind of home has it for itself, one after the
other, in rounds.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path

import torch

from glinthawk.bench.decoding import Decoding
from glinthawk.bench.layouts import START_S, far_worker_on, on_cores
from glinthawk.bench.relay import Relay
from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.drives import Drive
from glinthawk.launch.local_machine import load_identity
from glinthawk.tier1.kv.home import WorkerHome
from glinthawk.tier1.kv.home_factory import make_home
from glinthawk.tier1.model.loader import LoadedModel
from glinthawk.tier1.xcache.rebuild import learn_rebuild
from glinthawk.tier1.xcache.share import XShare
from glinthawk.tier2.backends.fetched_pages import FetchedPages
from glinthawk.wire.address import Address
from glinthawk.wire.client_channel import ClientChannel

__all__ = ["Placed", "measure_placements"]

_IN_FLIGHT = 2


@dataclass(frozen=True, slots=True)
class Placed:
    """Decoding in steady state, medians over rounds."""

    #: ``near``, ``fetch`` or ``xcache ALPHA``.
    placement: str
    context: int
    sequences: int
    #: That the link carries.
    link_gbps: float
    tokens_per_s: float
    #: Bytes over the link for one token.
    link_bytes: float
    #: Of the worker's KV.
    kv_bytes: int
    tier1_busy: float


@dataclass(frozen=True, slots=True)
class _Window:
    tokens_per_s: float
    link_bytes: float
    kv_bytes: int
    tier1_busy: float


def measure_placements(
    loaded: LoadedModel,
    folder: Path,
    cores: list[int],
    *,
    context: int,
    sequences: int,
    link_bytes_per_s: float,
    alphas: tuple[float, ...],
    seconds: float,
    rounds: int,
) -> list[Placed]:
    """``near``, ``fetch`` over the narrow link, and an X-cache of each of ``alphas``."""
    kv = sequences * (context + 2 * PAGE_TOKENS) * loaded.spec.kv_bytes_per_token("bfloat16")
    drives = [Drive(folder, int(1.2 * kv) + (64 << 20))]
    names = ["near", "fetch", *(f"xcache {alpha:g}" for alpha in alphas)]
    windows: dict[str, list[_Window]] = {name: [] for name in names}
    with (
        far_worker_on(cores[1:] or cores, max(kv // 8, 16 << 20), drives=drives) as (far, relay),
        on_cores(cores[:1]),
    ):
        for _ in range(rounds):
            for name in names:
                relay.set_speed(inf)  # while it is filled
                with _home(name, far, loaded) as home:
                    each = sequences // _IN_FLIGHT
                    decoding = Decoding(loaded, home, context, [each] * _IN_FLIGHT)
                    relay.set_speed(link_bytes_per_s)
                    windows[name].append(_measure(decoding, home, relay, seconds))
    link_gb_per_s = round(link_bytes_per_s / 1e9, 3)
    return [
        Placed(name, context, sequences, link_gb_per_s, *_medians(some))
        for name, some in windows.items()
    ]


def _medians(windows: list[_Window]) -> tuple[float, float, int, float]:
    """Tokens a second, bytes on the link, bytes of KV, the share of time that Tier 1 works."""
    return (
        round(_median([w.tokens_per_s for w in windows]), 2),
        round(_median([w.link_bytes for w in windows])),
        windows[0].kv_bytes,
        round(_median([w.tier1_busy for w in windows]), 3),
    )


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _measure(decoding: Decoding, home: WorkerHome, relay: Relay, seconds: float) -> _Window:
    before, tokens = _crossed(home), decoding.total_tokens
    speed = decoding.speed(seconds, 2)
    crossed = (_crossed(home) - before) / (decoding.total_tokens - tokens)
    relay.set_speed(inf)
    (link,) = home.links
    return _Window(speed, crossed, link.ask(START_S).kv_bytes_peak, decoding.tier1_busy)


def _crossed(home: WorkerHome) -> int:
    (link,) = home.links
    return link.traffic.decode_bytes_out + link.traffic.decode_bytes_back


@contextmanager
def _home(name: str, address: Address, loaded: LoadedModel) -> Iterator[WorkerHome]:
    channel = ClientChannel(address, load_identity(None, [address]))
    home = _make(name, loaded)(channel)
    try:
        home.open("bfloat16")
        home.await_open(START_S)
        yield home
    finally:
        home.close()


def _make(name: str, loaded: LoadedModel) -> Callable[[ClientChannel], WorkerHome]:
    kind, _, alpha = name.partition(" ")
    pages = share = None
    if kind == "fetch":
        pages = FetchedPages(loaded.spec.layers, "bfloat16", torch.get_num_threads())
    elif kind == "xcache":
        share = XShare(float(alpha), learn_rebuild(loaded.model, loaded.spec))
    return lambda channel: make_home(
        "sequence",
        1,
        [channel],
        loaded.spec,
        loaded.model.device,
        attention=pages,
        own=share,
    )
