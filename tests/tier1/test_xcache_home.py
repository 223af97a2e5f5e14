"""A home with an X-cache answers as one cache does, whatever is stored, shared, forgotten."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from direct import DirectChannel
from home_pairs import CPU, LOCAL, PLAIN, QUIET, Pair, make_spec, memory_of, opened, specs, walk
from hypothesis import given
from hypothesis import strategies as st

from glinthawk.core.batch import Span
from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.errors import UsageError
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request, Sequence
from glinthawk.core.spec import ModelSpec
from glinthawk.tier1.kv.token_split import RangeSplitHome
from glinthawk.tier1.xcache.rebuild import Slot
from glinthawk.tier1.xcache.share import XShare
from glinthawk.tier1.xcache.store import XCache
from glinthawk.wire.messages import Attend, BeginPart, Store


class KeptKV:
    """A Rebuild of no model: X is K and V themselves, a slot of each layer for either."""

    def __init__(self, spec: ModelSpec) -> None:
        sizes = [
            (layer.num_kv_heads, size)
            for layer in spec.layers
            for size in (layer.head_dim, layer.value_dim)
        ]
        self.slots = [Slot(torch.Size(size), torch.float32) for size in sizes]
        self.bytes_per_token = sum(slot.num_bytes for slot in self.slots)

    def slots_of(self, layer: int) -> list[int]:
        return [2 * layer, 2 * layer + 1]

    def absorbed(self, layer: int) -> None:
        return None

    def kept(self, layer: int, given: Any) -> list[tuple[int, torch.Tensor]]:
        return list(zip(self.slots_of(layer), given[0], strict=True))

    def __call__(self, layer: int, rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return rows[0].transpose(0, 1), rows[1].transpose(0, 1)


def _with_x(spec: ModelSpec, num_pages: int, alpha: float, memory: int | None) -> RangeSplitHome:
    channel = DirectChannel(memory_of(spec.layers, num_pages))
    share = XShare(alpha, KeptKV(spec), memory)  # type: ignore[arg-type]
    home = RangeSplitHome(1, [channel], spec, CPU, own=share)  # type: ignore[list-item]
    return opened(home)  # type: ignore[no-any-return]


@dataclass
class XPair(Pair):
    """As a node does it: inputs are shown first, and Tier 1's own part comes after the parcels."""

    def _compare(self, index: int, rows: int) -> None:
        if not rows:
            return
        layer = self.spec.layers[index]
        q, kv = self._random(rows, layer.num_heads, layer.head_dim), self._kv(index, rows)
        self.home.show(self.num_steps, index, (tuple(kv), {}), slice(0, rows), None)
        assert self.home.attend(self.num_steps, index, q, *kv) is None
        output = self.home.attend_here(self.num_steps)
        replies = self.home.receive()
        if output is None:
            ((step, output, _),) = replies
            assert step == self.num_steps
        else:
            assert replies == []
        expected = self.plain.attend(self.num_steps, index, q, *kv)
        torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-4)

    def _store(self, index: int, rows: int) -> None:
        if not rows:
            return
        kv = self._kv(index, rows)
        self.home.show(self.num_steps, index, (tuple(kv), {}), None, slice(0, rows))
        is_stored = self.home.store(self.num_steps, index, *kv)
        self.plain.store(self.num_steps, index, *kv)
        is_last = index == len(self.spec.layers) - 1
        replies = [(reply.step, reply.output) for reply in self.home.receive()]
        assert replies == ([(self.num_steps, None)] if is_last and not is_stored else [])


@QUIET
@given(specs(), st.integers(1, 12), st.sampled_from([0.1, 0.5, 0.75]), st.data())
def test_a_share_rebuilt_on_tier_1_answers_as_one_cache(
    spec: ModelSpec, num_pages: int, alpha: float, data: st.DataObject
) -> None:
    """Memory is scarce on either side: a page that is free anywhere is used."""
    page_bytes = PAGE_TOKENS * KeptKV(spec).bytes_per_token
    memory = data.draw(st.none() | st.integers(1, 6), "pages of X")
    home = _with_x(spec, num_pages, alpha, memory and memory * page_bytes)
    wanted = max(1, round(num_pages * alpha / (1 - alpha)))
    x_pages = min(wanted, memory or wanted)
    walk(XPair(spec, home, num_pages + x_pages), data)
    home._stripes.validate()
    pages = home._stripes.pages(1)
    assert pages.num_free + pages.num_used == x_pages
    assert home.xcache_bytes_peak == pages.peak_used * page_bytes
    assert isinstance(home._own, XCache)
    assert home._own._steps == {}


def _span(number: int, start: int, length: int) -> Span:
    request = Request(number, (5,) * (start + length), SamplingParams(), 0, 8)
    return Span(Sequence(request), 1, start, length)


def test_what_is_x_does_not_travel() -> None:
    spec = make_spec(PLAIN, LOCAL)
    home = _with_x(spec, 40, 0.75, None)
    pair = XPair(spec, home, 40 + 120)
    pair.step([], [_span(0, 0, 16 * PAGE_TOKENS)])
    channel: Any = home.links[0].channel
    begin = next(message for message in channel.sent if isinstance(message, BeginPart))
    assert begin.prompts.lengths == [4 * PAGE_TOKENS]
    assert sum(isinstance(message, Store) for message in channel.sent) == 2


def test_a_worker_without_tokens_in_sight_hears_nothing() -> None:
    """A sequence that is all X is Tier 1's alone."""
    spec = make_spec(PLAIN)
    home = _with_x(spec, 2, 0.99, None)
    pair = XPair(spec, home, home.num_pages)
    pair.step([], [_span(1, 0, 40)])
    pair.step([_span(1, 40, 1)], [])
    channel: Any = home.links[0].channel
    assert not [message for message in channel.sent if isinstance(message, BeginPart | Attend)]


def test_pages_of_x_have_room_for_sequences_too() -> None:
    home = _with_x(make_spec(PLAIN), 2, 0.5, None)
    assert home.most_sequences == home.num_pages == 4


def test_memory_of_x_goes_with_the_workers_and_no_further() -> None:
    spec = make_spec(PLAIN)
    rebuild: Any = KeptKV(spec)
    page = PAGE_TOKENS * rebuild.bytes_per_token
    assert XShare(0.5, rebuild).count_pages(30, PAGE_TOKENS) == 30
    assert XShare(0.75, rebuild).count_pages(30, PAGE_TOKENS) == 90
    assert XShare(0.75, rebuild, 10 * page + 1).count_pages(30, PAGE_TOKENS) == 10
    assert XShare(0.25, rebuild, 1000 * page).count_pages(30, PAGE_TOKENS) == 10


def test_too_little_memory_is_an_error_that_says_what_to_do() -> None:
    rebuild: Any = KeptKV(make_spec(PLAIN))
    page = PAGE_TOKENS * rebuild.bytes_per_token
    with pytest.raises(UsageError, match="--xcache-memory at least"):
        XShare(0.5, rebuild, page - 1).count_pages(30, PAGE_TOKENS)
    with pytest.raises(UsageError, match=r"this machine has .*--xcache-memory"):
        XShare(0.5, rebuild).count_pages(2**40, PAGE_TOKENS)
