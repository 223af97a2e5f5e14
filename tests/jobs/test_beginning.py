"""A start that fails leaves files as they were."""

from pathlib import Path

import pytest

from glinthawk.core.errors import JournalError, RequestError
from glinthawk.jobs.journal import Journal
from glinthawk.jobs.lines import Refusal
from glinthawk.jobs.results import refusal_line
from job_files import FINGERPRINT


class _Failure(Exception):
    pass


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in"
    path.write_bytes(b"x\n" * 5)
    return path


def _fail(source: Path, output: Path, lines: int = 0, restart: bool = False) -> None:
    with (
        pytest.raises(_Failure),
        Journal.open(source, output, FINGERPRINT, restart=restart) as journal,
    ):
        for line in range(lines):
            refusal = Refusal(line, "x", RequestError("no"))
            journal.append(line, refusal_line(refusal), failed=True)
        raise _Failure


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_nothing_is_left_of_it(source: Path, tmp_path: Path) -> None:
    before = _files(tmp_path)
    _fail(source, tmp_path / "out")
    assert _files(tmp_path) == before


def test_the_first_result_stays(source: Path, tmp_path: Path) -> None:
    _fail(source, tmp_path / "out", lines=1)
    assert {"out", "out.journal"} < _files(tmp_path).keys()
    before = _files(tmp_path)
    _fail(source, tmp_path / "out")
    assert _files(tmp_path) == before


def test_an_empty_file_that_was_there_stays(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    before = _files(tmp_path)
    _fail(source, tmp_path / "out")
    assert _files(tmp_path) == before


def test_what_was_moved_aside_comes_back(source: Path, tmp_path: Path) -> None:
    _fail(source, tmp_path / "out", lines=2)
    before = _files(tmp_path)
    _fail(source, tmp_path / "out", restart=True)
    assert _files(tmp_path) == before
    (tmp_path / "out.journal").unlink()
    before = _files(tmp_path)
    _fail(source, tmp_path / "out", restart=True)
    assert _files(tmp_path) == before


def test_a_link_to_nothing_stays_one(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "far")
    _fail(source, tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert not (tmp_path / "far").exists()


def test_another_run_may_begin_while_one_is_undone(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(_Failure), Journal.open(source, output, FINGERPRINT):
        with pytest.raises(JournalError, match="another run is writing"):
            Journal.open(source, output, FINGERPRINT)
        raise _Failure
    with Journal.open(source, output, FINGERPRINT):
        assert output.exists()
