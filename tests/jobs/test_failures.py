"""Why lines failed, and the file of those."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glinthawk.core.errors import RequestError
from glinthawk.jobs.failed_lines import save_failed_lines
from glinthawk.jobs.failures import Failures
from glinthawk.jobs.journal import Journal
from glinthawk.jobs.lines import Refusal
from glinthawk.jobs.results import refusal_line
from job_files import FINGERPRINT


def _refusal(line: int, message: str) -> bytes:
    return refusal_line(Refusal(line, str(line), RequestError(message)))


def _failures(messages: dict[int, str]) -> Failures:
    failures = Failures()
    for line, message in messages.items():
        failures.add(line, _refusal(line, message))
    return failures


def test_reasons_are_counted_with_the_first_line_of_each() -> None:
    messages = {9: "no", 4: "the prompt has 700 tokens", 2: "the prompt has 12 tokens", 7: "odd"}
    found = [
        (one.count, one.line, one.message)
        for one in _failures({**messages, 11: "'a' is bad", 8: "'b c' is bad"}).reasons()
    ]
    assert found == [
        (2, 2, "the prompt has 12 tokens"),
        (2, 8, "'b c' is bad"),
        (1, 7, "odd"),
        (1, 9, "no"),
    ]


def test_texts_of_others_take_no_memory() -> None:
    names = [chr(ord("a") + n // 60) + chr(ord("a") + n % 60) for n in range(1500)]
    reasons = _failures({n: f"{name} is no field" for n, name in enumerate(names)}).reasons()
    assert len(reasons) == 1001
    assert (reasons[0].count, reasons[0].line) == (500, 1000)


@given(st.dictionaries(st.integers(0, 300), st.sampled_from(["a", "b 1", "b 2", "c"])))
def test_every_failed_line_is_counted_once(messages: dict[int, str]) -> None:
    failures = _failures(messages)
    assert len(failures) == len(messages) == sum(one.count for one in failures.reasons())
    assert {line for line in range(301) if line in failures} == set(messages)
    for one in failures.reasons():
        alike = [line for line, said in messages.items() if said[0] == one.message[0]]
        assert (one.line, one.count) == (min(alike), len(alike))


@given(st.lists(st.sampled_from([b"", b"  ", b"{}", b'{"a": 1}', b"rubbish"])), st.data())
def test_the_file_holds_the_failed_lines_as_they_stand(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("failed")
    source, path = folder / "in", folder / "errors"
    source.write_bytes(b"\n".join(lines))
    real = [number for number, line in enumerate(lines) if line.strip()]
    failed = {n: "no" for n in real if data.draw(st.booleans())}
    save_failed_lines(path, source, source.stat().st_size, _failures(failed))
    assert path.read_bytes().splitlines() == [lines[n] for n in sorted(failed)]
    assert [one.name for one in sorted(folder.iterdir())] == ["errors", "in"]


def test_a_journal_knows_the_failures_of_earlier_runs(tmp_path: Path) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b"x\n" * 9)
    for line in (3, 1):
        with Journal.open(source, output, FINGERPRINT) as journal:
            journal.append(line, _refusal(line, f"no {line}"), failed=True)
    with Journal.open(source, output, FINGERPRINT) as journal:
        (reason,) = journal.failures.reasons()
        assert (reason.count, reason.line, reason.message) == (2, 1, "no 1")
    with Journal.open(source, output, FINGERPRINT, retry_errors=True) as journal:
        journal.settle({"max_model_len": 8})
        assert not journal.failures.reasons()
