"""What ``--retry-errors`` runs again, and what it leaves alone."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glinthawk.core.errors import JournalError
from glinthawk.core.limits import Limits
from glinthawk.jobs import journal as journals
from glinthawk.jobs.journal import Journal
from job_files import FINGERPRINT, LIMITS, line, results, run_job, write_input
from result_schema import error_of

LONGER = replace(LIMITS, max_model_len=96)


def _body(prompt_tokens: int, max_tokens: int | None, n: int) -> dict[str, Any]:
    return {"prompt": [1] * prompt_tokens, "max_tokens": max_tokens, "n": n}


bodies = st.builds(_body, st.integers(1, 110), st.none() | st.integers(1, 120), st.integers(1, 3))
limits = st.builds(Limits, st.integers(20, 100), st.integers(16, 100), st.just(320))


def _without(path: Path) -> Path:
    for file in (path, path.with_name(path.name + ".journal")):
        file.unlink(missing_ok=True)
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(many=st.lists(bodies, min_size=1, max_size=6), before=limits, after=limits)
def test_the_end_is_as_if_the_room_had_always_been_there(
    tmp_path: Path, many: list[dict[str, Any]], before: Limits, after: Limits
) -> None:
    """Answers cut off by a shorter length among it; a shorter length than before is refused."""
    after = replace(after, max_model_len=max(before.max_model_len, after.max_model_len))
    after = replace(after, kv_tokens=max(before.kv_tokens, after.kv_tokens))
    items = [line(str(number), **body) for number, body in enumerate(many)]
    source = write_input(tmp_path / "in", [*items, b"bad"])
    fresh, retried = _without(tmp_path / "fresh"), _without(tmp_path / "retried")
    run_job(source, fresh, limits=after)
    run_job(source, retried, limits=before)
    run_job(source, retried, limits=after, retry_errors=True)
    assert results(retried) == results(fresh)
    run_job(source, retried, limits=after)
    if before != after and before.max_model_len < after.max_model_len:
        with pytest.raises(JournalError, match="max_model_len was"):
            run_job(source, retried, limits=before, retry_errors=True)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    prompts = [[1] * count for count in (3, 70, 5, 80, 100)]
    items = [line(str(i), prompt=prompt) for i, prompt in enumerate(prompts)]
    return write_input(tmp_path / "in", [*items, b"bad"])


@pytest.fixture
def output(tmp_path: Path, source: Path) -> Path:
    """Answers to the first and third line, errors to the rest."""
    run_job(source, tmp_path / "out")
    return tmp_path / "out"


def _failed(output: Path) -> list[int]:
    return [number for number, result in enumerate(results(output)) if error_of(result)]


def test_errors_alone_are_run_again(source: Path, output: Path) -> None:
    assert _failed(output) == [1, 3, 4, 5]
    before = output.read_bytes()
    job = run_job(source, output, retry_errors=True)
    assert (job.progress.resumed, job.progress.failed) == (2, 4)
    assert sorted(output.read_bytes().splitlines()) == sorted(before.splitlines())
    run_job(source, output, limits=LONGER, retry_errors=True)
    assert _failed(output) == [4, 5]


def test_what_does_not_begin_costs_nothing(source: Path, output: Path) -> None:
    """A model that cannot be loaded, or settings that decide answers."""
    before = output.read_bytes()
    with Journal.open(source, output, FINGERPRINT, retry_errors=True) as journal:
        assert journal.num_to_retry == 4
        with pytest.raises(JournalError, match="dtype was unset"):
            journal.settle({"max_model_len": 64, "dtype": "float16"})
    with Journal.open(source, output, FINGERPRINT) as journal:
        assert journal.num_to_retry == 0
        with pytest.raises(JournalError, match="with --retry-errors, which takes a longer one"):
            journal.settle({"max_model_len": 65})
    assert output.read_bytes() == before


def test_a_kill_while_errors_are_dropped_loses_no_answer(
    source: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the new output and the new record: the longer length is not recorded yet."""

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with (
        monkeypatch.context() as patch,
        Journal.open(source, output, FINGERPRINT, retry_errors=True) as journal,
        pytest.raises(KeyboardInterrupt),
    ):
        patch.setattr(journals, "save_record", die)
        journal.settle({"max_model_len": 96})
    assert len(results(output)) == 2
    run_job(source, output, limits=LONGER, retry_errors=True)
    assert _failed(output) == [4, 5]


def test_a_full_disk_leaves_the_old_output(
    source: Path, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    before = output.read_bytes()
    with Journal.open(source, output, FINGERPRINT, retry_errors=True) as journal:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(JournalError, match="No space left on device"):
            journal.settle({"max_model_len": 64})
    assert output.read_bytes() == before
    assert not (tmp_path / "out.new").exists()


def test_the_output_stays_locked_and_a_link_stays_a_link(
    source: Path, output: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(output)
    output.with_name("out.journal").rename(tmp_path / "link.journal")
    output.chmod(0o600)
    with Journal.open(source, link, FINGERPRINT, retry_errors=True) as journal:
        journal.settle({"max_model_len": 64})
        assert journal.num_done == 2
        with pytest.raises(JournalError, match="another run is writing"):
            Journal.open(source, link, FINGERPRINT)
    assert link.is_symlink()
    assert output.stat().st_mode & 0o777 == 0o600
