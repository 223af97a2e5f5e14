"""The papers' claims from the catalogue's numbers alone: prints the tables of research/README.md.

python research/papers.py                          # all tables
python research/papers.py --into research/README.md    # put them where the page has their names
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from claims import glinthawk, lamina, near_storage, today
from claims.table import Table

_PARTS = (glinthawk, lamina, near_storage, today)


def _all_tables() -> Iterator[Table]:
    for part in _PARTS:
        yield from part.tables()


def _fill(text: str, table: Table) -> str:
    begin, end = f"<!-- table {table.name} -->", "<!-- end -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"there is no place for the table {table.name}: {begin} ... {end}")
    return pattern.sub(lambda _: f"{begin}\n{table}\n{end}", text, count=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, help="a page with places for the tables")
    into = parser.parse_args().into
    text = into.read_text() if into else ""
    for table in _all_tables():
        if into:
            text = _fill(text, table)
        else:
            print(f"{table.name}\n\n{table}\n")  # noqa: T201
    if into:
        into.write_text(text)


if __name__ == "__main__":
    main()
