"""Rebuilt tokens attended in pieces answer as all of them at once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glinthawk.attention.reference import attend_sequence
from glinthawk.core.spec import AttentionLayer
from glinthawk.tier1.xcache.partials import Merge, attend_some
from glinthawk.tier1.xcache.visible_tokens import lay_out
from glinthawk.wire.messages import View

CPU = torch.device("cpu")
_PAGE = 32


@st.composite
def _layers(draw: st.DrawFn) -> AttentionLayer:
    kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    sizes = draw(st.sampled_from([(8, 8), (16, 8), (5, 5)]))
    softcap = draw(st.none() | st.just(5.0))
    return AttentionLayer(kv_heads * group, kv_heads, *sizes, 0.3, softcap=softcap)


@settings(max_examples=60, deadline=None)
@given(_layers(), st.data())
def test_pieces_answer_as_the_whole(layer: AttentionLayer, data: st.DataObject) -> None:
    """Sequences of unequal length, some of which share their first pages; several rows of one."""
    lengths = data.draw(st.lists(st.integers(1, 700), min_size=1, max_size=4), "lengths")
    pages, free = {}, iter(torch.randperm(200, generator=torch.Generator().manual_seed(1)).tolist())
    for number, length in enumerate(lengths):
        shared = data.draw(st.integers(0, len(pages[0]) if number else 0), "shared pages")
        count = -(-length // _PAGE)
        pages[number] = [*pages.get(0, [])[: min(shared, count)]]
        pages[number] += [next(free) for _ in range(count - len(pages[number]))]
    view = View([], [], [])
    for number, length in enumerate(lengths):
        for _ in range(data.draw(st.integers(1, 3), "rows")):
            end = data.draw(st.integers(1, length), "end")
            view.sequences.append(number)
            view.firsts.append(data.draw(st.integers(0, end - 1), "first"))
            view.ends.append(end)
    _compare(layer, view, pages, data.draw(st.sampled_from([64, 300, 2048]), "piece"))


def _compare(
    layer: AttentionLayer, view: View, pages: dict[int, list[int]], piece_tokens: int
) -> None:
    generator = torch.Generator().manual_seed(2)
    tokens, heads = 200 * _PAGE, layer.num_kv_heads
    keys = torch.randn(heads, tokens, layer.head_dim, generator=generator)
    values = torch.randn(heads, tokens, layer.value_dim, generator=generator)
    used = {page for held in pages.values() for page in held}
    for page in set(range(200)) - used:  # what nobody holds may be anything
        keys[:, page * _PAGE : (page + 1) * _PAGE] = torch.nan
    q = torch.randn(len(view.sequences), layer.num_heads, layer.head_dim, generator=generator)
    merge = Merge(len(q), layer, CPU)
    for piece in lay_out(view, pages.__getitem__, _PAGE, q.dtype, CPU, piece_tokens):
        k, v = keys[:, piece.places], values[:, piece.places]
        outputs, lses = [], []
        for group in piece.groups:
            count, size = len(group.rows), group.num_tokens
            runs = slice(group.begin, group.begin + count * size)
            k_runs, v_runs = (
                x[:, runs].unflatten(1, (count, size)).transpose(0, 1) for x in (k, v)
            )
            output, lse = attend_some(q[group.rows], k_runs, v_runs, group.mask, layer)
            outputs.append(output.flatten(0, 1))
            lses.append(lse.flatten(0, 1))
        merge.add(piece.rows, piece.members, torch.cat(outputs), torch.cat(lses))
    for row, (sequence, first, end) in enumerate(
        zip(view.sequences, view.firsts, view.ends, strict=True)
    ):
        at = torch.tensor(
            [pages[sequence][t // _PAGE] * _PAGE + t % _PAGE for t in range(first, end)]
        )
        k, v = keys[:, at].transpose(0, 1), values[:, at].transpose(0, 1)
        output, lse = attend_sequence(q[row : row + 1], k, v, layer)
        torch.testing.assert_close(merge.output[row], output[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(merge.lse[row], lse[0], atol=1e-5, rtol=1e-4)


def test_a_shared_beginning_is_rebuilt_once() -> None:
    pages = {number: [*range(8), 10 + number] for number in range(5)}
    ends = [8 * _PAGE + 3] * 5
    view = View([*range(5)], [0] * 5, ends)
    pieces = lay_out(view, pages.__getitem__, _PAGE, torch.float32, CPU)
    assert sum(len(piece.places) for piece in pieces) == 8 * _PAGE + 5 * _PAGE


@pytest.mark.parametrize("num_tokens", [1, 32, 256, 5000])
def test_pieces_are_bounded(num_tokens: int) -> None:
    view = View([0], [0], [num_tokens])
    pieces = lay_out(view, lambda _: [*range(200)], _PAGE, torch.float32, CPU, 512)
    assert max(len(piece.places) for piece in pieces) <= 512
    assert sum(len(piece.places) for piece in pieces) == -(-num_tokens // _PAGE) * _PAGE
