"""The papers' closed forms."""

import doctest

import pytest

from glinthawk.planner import formulas
from glinthawk.planner.known_models import known_shape


def test_worked_examples() -> None:
    assert doctest.testmod(formulas, raise_on_error=True).attempted > 8


def test_the_link_that_lamina_finds_enough() -> None:
    # At 300 rows: under 30 GB/s, with a fifth of a step of 150 ms lost.
    shape = known_shape("Llama-3-70B")
    assert formulas.least_link_bytes_per_s(shape, 300, 0.1, 0.05, 0.2) == pytest.approx(
        29.5e9, rel=0.01
    )
    assert shape.wire_bytes_out + shape.wire_bytes_back == (2 + 2 / 8) * 2 * 8192 * 80


def test_staggered_batches_keep_both_pools_busy() -> None:
    for batches in range(2, 9):
        layer = formulas.staggered_layer_s(1.0, batches)
        attention = formulas.staggered_attention_s(1.0, batches)
        assert layer == pytest.approx(1.0 + attention)
        # n batches, each on a replica for 1 of its layer's time, fill n - 1 of them.
        assert batches * 1.0 / layer == pytest.approx(batches - 1)
        assert batches * attention / layer == pytest.approx(1.0)


def test_near_storage_moves_queries_and_outputs_alone() -> None:
    # In bytes for one row and layer of width h = 1: KV read and written, against q, k, v and o.
    context, group = 1000, 4
    moved = (4 * context + 4) / group
    assert formulas.near_storage_gain(context, group) == pytest.approx(moved / (4 + 4 / group))


def test_balance_of_cached_inputs() -> None:
    link, storage = 32.0, 96.0
    share = formulas.cached_input_share(link, storage)
    assert (1 - share / 2) / storage == pytest.approx(share / 2 / link)
    assert formulas.cached_input_share(10.0, 1.0) == 1


@pytest.mark.parametrize("context", [0, 31, 32, 100])
def test_tails_stay_in_memory(context: int) -> None:
    assert context - formulas.page_read_bytes(context, 32, 1) in range(32)
