"""Repeated ids are found exactly, in little memory, whatever their hashes are."""

import json
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glinthawk.core.errors import JournalError
from glinthawk.jobs.input import InputLines
from glinthawk.jobs.seen import SeenIds
from job_files import line, results, run_job, write_input
from result_schema import error_of

#: Ids that come again now and then, of any characters.
_IDS = st.lists(st.text(max_size=3) | st.sampled_from(["a", "b" * 500, "", "é"]), max_size=60)
_HASHES: list[Callable[[str], int]] = [hash, lambda id: hash(id) & 3, lambda _: -1, lambda _: 0]


class _Input:
    """Ids by offset, and how often one was read."""

    def __init__(self, ids: list[str]) -> None:
        self.offsets: list[int] = []
        self.num_bytes = 0
        self.num_read = 0
        self._ids: dict[int, str] = {}
        for id in ids:
            self.offsets.append(self.num_bytes)
            self._ids[self.num_bytes] = id
            self.num_bytes += len(id.encode()) + 1

    def id_at(self, offset: int) -> str:
        self.num_read += 1
        return self._ids[offset]


@given(ids=_IDS, hash_of=st.sampled_from(_HASHES))
def test_it_says_what_a_set_says(ids: list[str], hash_of: Callable[[str], int]) -> None:
    source = _Input(ids)
    seen = SeenIds(len(ids), source.num_bytes, source.id_at, hash_of)
    truth: set[str] = set()
    for id, offset in zip(ids, source.offsets, strict=True):
        assert seen.add(id, offset) == (id not in truth)
        truth.add(id)


def test_an_offset_may_leave_no_room_for_a_hash() -> None:
    names = {2**62: "a", 2**63 - 2: "b"}
    seen = SeenIds(3, 2**63 - 1, names.__getitem__)
    assert seen.add("a", 2**62)
    assert seen.add("b", 2**63 - 2)
    assert not seen.add("a", 5)
    assert not seen.add("b", 6)


def test_other_ids_are_hardly_ever_read_again() -> None:
    source = _Input([f"request-{number}" for number in range(50_000)])
    # As in an input of a terabyte.
    seen = SeenIds(50_000, 1 << 40, source.id_at)
    assert all(
        seen.add(f"request-{number}", offset) for number, offset in enumerate(source.offsets)
    )
    # 2 looks each, 24 bits: one in a hundred runs of this test reads one.
    assert source.num_read < 5


def test_a_line_takes_twelve_bytes() -> None:
    seen = SeenIds(100_000, 1 << 30, lambda _: None)
    assert seen._slots.itemsize * len(seen._slots) <= 12 * 100_000 + 8


def test_more_ids_than_there_were_are_another_input() -> None:
    seen = SeenIds(2, 100, lambda _: None)
    assert seen.add("a", 0)
    assert seen.add("b", 10)
    with pytest.raises(JournalError, match="input has changed"):
        seen.add("c", 20)


def test_ids_are_read_where_lines_begin(tmp_path: Path) -> None:
    source = tmp_path / "in"
    rows = [json.dumps(line(name), ensure_ascii=False).encode() for name in ("é", "b", "last")]
    source.write_bytes(b"\xef\xbb\xbf" + b"\r\n\n  \n".join(rows))
    size = source.stat().st_size
    with source.open("ab") as file:
        file.write(b" and more")
    with closing(InputLines(source, size)) as lines:
        found = [(number, lines.custom_id_at(offset)) for number, offset, _ in lines]
    assert found == [(0, "é"), (3, "b"), (6, "last")]


def test_repeated_ids_are_refused_though_all_hashes_collide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_hash = partial(SeenIds, hash_of=lambda _: 7)
    monkeypatch.setattr("glinthawk.jobs.unanswered.SeenIds", one_hash)
    names = ["a", "b", "a", "c", "b", "d"]
    output = tmp_path / "out"
    run_job(write_input(tmp_path / "in", [line(name) for name in names]), output)
    refused = [error_of(result) is not None for result in results(output)]
    assert refused == [False, False, True, False, True, False]
