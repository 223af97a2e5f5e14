"""What a journal keeps, and what it refuses to continue."""

import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from glinthawk.core.errors import JournalError, RequestError, UsageError
from glinthawk.core.plan import Plan
from glinthawk.jobs.journal import Journal
from glinthawk.jobs.line_set import LineSet
from glinthawk.jobs.lines import Refusal
from glinthawk.jobs.record import load_record, record_path
from glinthawk.jobs.results import refusal_line
from glinthawk.jobs.survey import survey_input
from job_files import FINGERPRINT, results


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"x\n" * 200)
    return path


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


class _Clock:
    """A clock that stands still until told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _result(line: int) -> bytes:
    return refusal_line(Refusal(line, f"id-{line}", RequestError("no")))


def _answer(source: Path, output: Path, lines: Any, **options: Any) -> None:
    fingerprint = options.pop("fingerprint", FINGERPRINT)
    with Journal.open(source, output, fingerprint, **options) as journal:
        for line in lines:
            journal.append(line, _result(line), failed=True)


def _ids(output: Path) -> list[int]:
    return [int(result["id"].removeprefix("batch_req_")) for result in results(output)]


def test_the_last_plan_is_kept_and_any_other_may_go_on(source: Path, output: Path) -> None:
    plan = Plan(model="demo", kv_dtype="float32", batch_size=8, tier1_kv=0, worker_kv=1 << 30)
    for number, one in enumerate((plan, replace(plan, batch_size=4, workers_per_slice=2), None)):
        _answer(source, output, [number], plan=one)
        kept = load_record(output)
        assert kept is not None
        assert kept.plan == (one and asdict(one))
    assert _ids(output) == [0, 1, 2]


def test_finished_lines_are_known_again(source: Path, output: Path) -> None:
    _answer(source, output, [3, 150, 0])
    with Journal.open(source, output, FINGERPRINT) as journal:
        assert [line for line in range(200) if journal.is_finished(line)] == [0, 3, 150]
        assert (journal.num_done, journal.num_failed, journal.num_resumed) == (3, 3, 3)
        with pytest.raises(ValueError, match="already"):
            journal.append(3, _result(3), failed=True)
        journal.append(4, _result(4), failed=True)
        assert (journal.num_done, journal.num_resumed) == (4, 3)
    assert _ids(output) == [0, 3, 4, 150]


def test_success_and_failure_are_told_apart(source: Path, output: Path) -> None:
    good = (
        b'{"id":"batch_req_000000001","custom_id":"a","response":{"status_code":200,'
        b'"request_id":"r","body":{}},"error":null}\n'
    )
    with Journal.open(source, output, FINGERPRINT) as journal:
        journal.append(1, good, failed=False)
        journal.append(2, _result(2), failed=True)
    with Journal.open(source, output, FINGERPRINT) as journal:
        assert (journal.num_done, journal.num_failed) == (2, 1)


def test_the_start_time_stays(source: Path, output: Path) -> None:
    _answer(source, output, [0], now=lambda: 5.5)
    with Journal.open(source, output, FINGERPRINT, now=lambda: 9.0) as journal:
        assert journal.created == 5


def test_results_are_written_in_groups(source: Path, output: Path) -> None:
    clock = _Clock()
    with Journal.open(source, output, FINGERPRINT, clock=clock) as journal:
        for line in range(63):
            journal.append(line, _result(line), failed=True)
        assert output.stat().st_size == 0
        journal.append(63, _result(63), failed=True)
        assert len(_ids(output)) == 64
        journal.append(64, _result(64), failed=True)
        clock.now = 0.9
        journal.append(65, _result(65), failed=True)
        assert len(_ids(output)) == 64
        # The second counts from the first result that waits.
        clock.now = 1.0
        journal.tick()
        assert len(_ids(output)) == 66
        journal.append(66, _result(66), failed=True)
    assert len(_ids(output)) == 67


def test_each_group_is_one_write_and_one_sync(
    source: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def spy(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*args: Any) -> Any:
            calls.append(name)
            return real(*args)

        return call

    with Journal.open(source, output, FINGERPRINT, clock=_Clock()) as journal:
        monkeypatch.setattr(os, "write", spy("write"))
        monkeypatch.setattr(os, "fsync", spy("fsync"))
        for line in range(128):
            journal.append(line, _result(line), failed=True)
    assert calls == ["write", "fsync"] * 2


def test_a_full_disk_leaves_no_torn_line(
    source: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write

    def half(fd: int, data: memoryview) -> int:
        if len(data) < 100:
            raise OSError(28, "No space left on device")
        return real(fd, data[: len(data) // 2])

    _answer(source, output, [0])
    journal = Journal.open(source, output, FINGERPRINT)
    journal.append(1, _result(1), failed=True)
    monkeypatch.setattr(os, "write", half)
    with pytest.raises(JournalError, match=r"No space left.*make room"):
        journal.flush()
    monkeypatch.undo()
    journal.close()
    _answer(source, output, [1])
    assert _ids(output) == [0, 1]


def test_a_second_run_is_refused(source: Path, output: Path) -> None:
    with (
        Journal.open(source, output, FINGERPRINT),
        pytest.raises(JournalError, match=r"another run is writing .*out\.jsonl"),
    ):
        Journal.open(source, output, FINGERPRINT)
    Journal.open(source, output, FINGERPRINT).close()


def test_a_second_run_cannot_restart_either(source: Path, output: Path) -> None:
    with Journal.open(source, output, FINGERPRINT) as journal:
        journal.append(0, _result(0), failed=True)
        journal.flush()
        with pytest.raises(JournalError, match="another run"):
            Journal.open(source, output, FINGERPRINT, restart=True)
    assert _ids(output) == [0]


def test_a_refusal_lets_go_of_the_output(source: Path, output: Path) -> None:
    _answer(source, output, [0])
    with pytest.raises(JournalError):
        _answer(source, output, [1], fingerprint={"model": "other"})
    _answer(source, output, [1])


def test_restart_moves_the_old_output_aside(source: Path, output: Path, tmp_path: Path) -> None:
    for run in range(3):
        _answer(source, output, [run], restart=True, fingerprint={"run": run})
    assert _ids(output) == [2]
    assert _ids(tmp_path / "out.jsonl.1") == [0]
    assert _ids(tmp_path / "out.jsonl.2") == [1]
    # What was moved aside is still a job that can be resumed.
    _answer(source, tmp_path / "out.jsonl.1", [7], fingerprint={"run": 0})
    assert _ids(tmp_path / "out.jsonl.1") == [0, 7]


def test_restart_of_nothing_moves_nothing(source: Path, output: Path, tmp_path: Path) -> None:
    output.touch()
    _answer(source, output, [0], restart=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "in.jsonl",
        "out.jsonl",
        "out.jsonl.journal",
    ]


def test_an_output_without_journal_is_refused(source: Path, output: Path) -> None:
    output.write_text("my thesis\n")
    with pytest.raises(JournalError, match=r"no journal beside it.*--restart.*another -o"):
        Journal.open(source, output, FINGERPRINT)
    assert output.read_text() == "my thesis\n"


def test_a_job_without_results_has_nothing_to_protect(source: Path, output: Path) -> None:
    _answer(source, output, [])
    _answer(source, output, [0], fingerprint={"model": "other"})
    assert _ids(output) == [0]


def test_what_settings_came_to_may_not_change(source: Path, output: Path) -> None:
    with Journal.open(source, output, FINGERPRINT) as journal:
        journal.settle({"dtype": "bfloat16", "max_model_len": 64})
    _answer(source, output, [0])
    with Journal.open(source, output, FINGERPRINT) as journal:
        journal.settle({"dtype": "bfloat16", "max_model_len": 64})
        with pytest.raises(JournalError, match='dtype was "bfloat16" and is "float16"; '):
            journal.settle({"dtype": "float16", "max_model_len": 64})


def test_other_settings_are_named(source: Path, output: Path) -> None:
    _answer(source, output, [0], fingerprint={"dtype": "float32", "seed": 0, "same": (1, 2)})
    with pytest.raises(JournalError) as caught:
        other = {"dtype": "bfloat16", "kv_dtype": "float16", "same": [1, 2], "seed": 0}
        _answer(source, output, [1], fingerprint=other)
    message = str(caught.value)
    assert 'dtype was "float32" and is "bfloat16"' in message
    assert 'kv_dtype was unset and is "float16"' in message
    assert "seed" not in message
    assert "same was" not in message
    assert "--restart" in message


def test_an_input_may_grow_by_lines(source: Path, output: Path) -> None:
    _answer(source, output, [0])
    with source.open("ab") as file:
        file.write(b"y\nz")
    _answer(source, output, [200])
    # Now the recorded part ends without a newline.
    with source.open("ab") as file:
        file.write(b"\nlast\n")
    _answer(source, output, [202])
    assert _ids(output) == [0, 200, 202]


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: b"y" + raw[1:],
        lambda raw: raw[:-2],
        lambda raw: b"",
        lambda raw: b"new\n" + raw,
    ],
)
def test_another_input_is_refused(
    source: Path, output: Path, change: Callable[[bytes], bytes]
) -> None:
    _answer(source, output, [0])
    source.write_bytes(change(source.read_bytes()))
    with pytest.raises(JournalError, match=r"no longer begins with the 400 bytes.*--restart"):
        _answer(source, output, [1])


def test_a_last_line_that_went_on_is_refused(source: Path, output: Path) -> None:
    source.write_bytes(b"x\nhalf")
    _answer(source, output, [1])
    source.write_bytes(b"x\nhalf and half\n")
    with pytest.raises(JournalError, match=r"last line .* went on"):
        _answer(source, output, [0])


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda rows: [rows[0], b"garbage\n", rows[2]], "line 2 .* is not a whole result"),
        (lambda rows: [rows[0], rows[1][:30] + b"\n", rows[2]], "line 2 .* is not a whole"),
        (lambda rows: [rows[0], rows[1].replace(b"no", b"\0\0"), rows[2]], "line 2 .* not a who"),
        (lambda rows: [rows[0], b"\n", rows[2]], "line 2 .* is not a whole"),
        (lambda rows: [*rows, rows[0]], "line 4 .* answers line 1 of the input a second time"),
        (lambda rows: [*rows, _result(200)], "line 4 .* answers line 201 of an input of 200"),
    ],
)
def test_a_corrupt_output_is_refused(
    source: Path, output: Path, spoil: Callable[[list[bytes]], list[bytes]], problem: str
) -> None:
    _answer(source, output, [0, 1, 2])
    output.write_bytes(b"".join(spoil(output.read_bytes().splitlines(keepends=True))))
    with pytest.raises(JournalError, match=problem) as caught:
        _answer(source, output, [5])
    # The message's advice works.
    size = int(str(caught.value).split("truncate -s ")[1].split()[0])
    os.truncate(output, size)
    _answer(source, output, [5])
    assert 5 in _ids(output)


@pytest.mark.parametrize("raw", [b"", b"{}", b"[", b'{"format":99}', b"\xff"])
def test_a_spoiled_record_is_refused(source: Path, output: Path, raw: bytes) -> None:
    _answer(source, output, [0])
    record_path(output).write_bytes(raw)
    with pytest.raises(JournalError, match="--restart"):
        _answer(source, output, [1])


def test_what_cannot_be_a_job(source: Path, output: Path, tmp_path: Path) -> None:
    for bad_source in (tmp_path / "missing", tmp_path, Path("/dev/null")):
        with pytest.raises(UsageError):
            Journal.open(bad_source, output, FINGERPRINT)
    assert not output.exists()
    for bad_output in (tmp_path / "missing" / "out", tmp_path, source):
        with pytest.raises(UsageError):
            Journal.open(source, bad_output, FINGERPRINT, restart=True)
    assert source.stat().st_size == 400


def test_a_million_lines_are_small() -> None:
    finished = LineSet()
    for line in (999_999, 0):
        finished.add(line)
    assert 999_999 in finished
    assert 999_998 not in finished
    assert 10**12 not in finished
    assert len(finished._bits) <= 125_000


def test_a_survey_counts(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"a\n\n  \r\nb\n\nlast")
    survey = survey_input(path, prefix=3)
    assert (survey.num_bytes, survey.num_lines, survey.num_requests) == (14, 6, 3)
    assert survey.prefix_is_whole_lines
    assert survey_input(path, prefix=15).prefix_sha256 is None
    assert survey_input(path, prefix=14).prefix_sha256 == survey.sha256
    path.write_bytes(b"")
    assert survey_input(path).num_lines == 0


def test_a_pipe_gets_each_result_once_and_no_record(source: Path, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    output = Path(f"/dev/fd/{writing}")
    _answer(source, output, range(3))
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == b"".join(_result(line) for line in range(3))
    assert not record_path(output).exists()


def test_a_descriptor_of_a_file_is_not_resumed(source: Path, tmp_path: Path) -> None:
    with (tmp_path / "redirected").open("wb") as file:
        for _ in range(2):
            _answer(source, Path(f"/proc/self/fd/{file.fileno()}"), range(2))
    assert (tmp_path / "redirected").read_bytes() == 2 * (_result(0) + _result(1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "redirected"]
