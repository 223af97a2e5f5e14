"""research/README.md shows what research/papers.py prints."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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
