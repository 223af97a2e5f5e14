"""The shape of a mask, recognised from a function that answers "may this query see this key?"."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from transformers.masking_utils import (
    and_masks,
    bidirectional_mask_function,
    causal_mask_function,
    chunked_causal_mask_function,
    or_masks,
    sliding_window_bidirectional_mask_function,
    sliding_window_causal_mask_function,
)

from glinthawk.core.errors import UnsupportedModel
from glinthawk.tier1.model.masks import MaskShape, recognise

Mask = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
NO_PADDING = torch.zeros(1, dtype=torch.long)
QUIET = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _of_two(function: Callable[..., torch.Tensor | bool]) -> Mask:
    """transformers' masks also take a batch and a head."""
    zero = torch.tensor(0)
    return lambda query, key: torch.as_tensor(function(zero, zero, query, key))


def test_a_causal_mask_has_no_limits() -> None:
    assert recognise(_of_two(causal_mask_function)) == MaskShape(window=None, max_len=None)


@QUIET
@given(st.integers(1, 5000))
@example(1)
@example(47)
@example(48)
@example(4096)
def test_a_sliding_window_is_known_by_its_size(window: int) -> None:
    mask = _of_two(sliding_window_causal_mask_function(window))
    assert recognise(mask) == MaskShape(window=window)


@QUIET
@given(st.integers(2, 10_000))
@example(2)
@example(8192)
@example(3)  # 2^20 + 1 begins no chunk of 3, 2^20 - 1 does
@example(17)  # 2^20 + 1 is a multiple
def test_chunks_are_exact_up_to_their_first_border(size: int) -> None:
    mask = _of_two(chunked_causal_mask_function(size, NO_PADDING))
    assert recognise(mask) == MaskShape(max_len=size)


def test_chunks_of_one_are_a_window_of_one() -> None:
    assert recognise(_of_two(chunked_causal_mask_function(1, NO_PADDING))) == MaskShape(window=1)


@QUIET
@given(st.integers(1, 600))
def test_a_recognised_window_sees_what_the_layer_will_see(window: int) -> None:
    """The count is the newest keys with the query itself, as AttentionLayer.window has it."""
    mask = _of_two(sliding_window_causal_mask_function(window))
    shape = recognise(mask)
    query = 700
    seen = mask(torch.tensor(query), torch.arange(query + 1)).nonzero().flatten().tolist()
    assert shape.window is not None
    assert seen == list(range(query - shape.window + 1, query + 1))


def test_a_window_inside_of_chunks_is_exact_up_to_the_shorter_of_them() -> None:
    chunks = chunked_causal_mask_function(64, NO_PADDING)
    mask = _of_two(and_masks(chunks, sliding_window_causal_mask_function(16)))
    assert recognise(mask) == MaskShape(max_len=16)


def _prefix(length: int) -> Mask:
    return lambda q, k: (k <= q) | (k < length)


REFUSED: dict[str, Mask] = {
    "bidirectional": _of_two(bidirectional_mask_function),
    "bidirectional window": _of_two(sliding_window_bidirectional_mask_function(9)),
    "looks one ahead": lambda q, k: k <= q + 1,
    "does not see itself": lambda q, k: k < q,
    "sees nothing": lambda q, k: (k < 0) & (q < 0),
    "every second key": lambda q, k: (k <= q) & ((q - k) % 2 == 0),
    "one key missing": lambda q, k: (k <= q) & (k != q - 3),
    "one key missing far back": lambda q, k: (k <= q) & (k != q - 1000),
    "window with sinks": lambda q, k: (k <= q) & ((k > q - 8) | (k < 4)),
    "window that grows with the position": lambda q, k: (k <= q) & (k > q // 2),
    "window that forgets the start later": lambda q, k: (k <= q) & ((q < 50) | (k > q - 8)),
    "prefix that looks ahead": _prefix(5),
    "two windows": _of_two(
        or_masks(
            sliding_window_causal_mask_function(5),
            and_masks(causal_mask_function, lambda b, h, q, k: (q - k > 9) & (q - k < 20)),
        )
    ),
}


@pytest.mark.parametrize("kind", list(REFUSED))
def test_masks_of_any_other_shape_are_refused(kind: str) -> None:
    with pytest.raises(UnsupportedModel):
        recognise(REFUSED[kind])
