"""research/README.md shows what research/papers.py prints; and the papers' closed forms."""

import doctest
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from glinthawk.planner.known_models import known_shape

ROOT = Path(__file__).parents[2]


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(ROOT / "research"))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "claims"]:
        del sys.modules[name]


@pytest.mark.usefixtures("claims")
def test_tables_of_the_page_are_those_of_the_script() -> None:
    # The fourth part, today's machines, takes a minute.
    from claims import glinthawk, lamina, near_storage

    page = (ROOT / "research" / "README.md").read_text()
    for part in (glinthawk, lamina, near_storage):
        for table in part.tables():
            assert f"<!-- table {table.name} -->\n{table}\n<!-- end -->" in page


@pytest.mark.usefixtures("claims")
def test_worked_examples() -> None:
    from claims import formulas

    assert doctest.testmod(formulas, raise_on_error=True).attempted > 3


@pytest.mark.usefixtures("claims")
def test_the_link_that_lamina_finds_enough() -> None:
    from claims import formulas

    # At 300 rows: under 30 GB/s, with a fifth of a step of 150 ms lost.
    shape = known_shape("Llama-3-70B")
    assert formulas.least_link_bytes_per_s(shape, 300, 0.1, 0.05, 0.2) == pytest.approx(
        29.5e9, rel=0.01
    )
    assert shape.wire_bytes_out + shape.wire_bytes_back == (2 + 2 / 8) * 2 * 8192 * 80


@pytest.mark.usefixtures("claims")
def test_near_storage_moves_queries_and_outputs_alone() -> None:
    from claims import formulas

    # In bytes for one row and layer of width h = 1: KV read and written, against q, k, v and o.
    context, group = 1000, 4
    moved = (4 * context + 4) / group
    assert formulas.near_storage_gain(context, group) == pytest.approx(moved / (4 + 4 / group))


@pytest.mark.usefixtures("claims")
def test_balance_of_cached_inputs() -> None:
    from claims import formulas

    link, storage = 32.0, 96.0
    share = formulas.cached_input_share(link, storage)
    assert (1 - share / 2) / storage == pytest.approx(share / 2 / link)
    assert formulas.cached_input_share(10.0, 1.0) == 1
