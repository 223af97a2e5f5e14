"""A run's events, recorded by the command and run again by the command."""

import json
import re
from pathlib import Path

import pytest

from commands import call, glinthawk, line, results, write_lines
from families import make_model
from glinthawk.core.errors import WorkerLost
from glinthawk.engine.local_node import LocalNode
from glinthawk.engine.tier import TierEvent
from glinthawk.jobs.job import Job

_COUNT = 12


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    lines = [
        line(f"id-{i}", prompt=list(range(3, 9 + i)), max_tokens=8 + i, n=1 + i % 2)
        for i in range(_COUNT)
    ]
    return write_lines(tmp_path / "in.jsonl", lines)


def _arguments(model: Path, source: Path, output: Path, *more: object) -> list[object]:
    places = ["--tier1-kv", "1MiB", "--batch-size", 4, "--batches-in-flight", 2]
    return ["run", "-m", model, "-i", source, "-o", output, "--quiet", *places, *more]


def test_a_run_is_recorded_and_run_again(model: Path, source: Path, tmp_path: Path) -> None:
    events, output = tmp_path / "events", tmp_path / "out.jsonl"
    more = ["--tier2", "local:1", "--worker-kv", "1MiB", "--event-log", events]
    done = call(*_arguments(model, source, output, *more))
    assert done.returncode == 0, done.stderr
    again = glinthawk("replay", str(events))
    assert again.returncode == 0, again.stderr
    assert "the sums hold" in again.stdout
    assert f"{_COUNT + _COUNT // 2} submitted" in again.stdout
    told = call("replay", events, "--story", "id-3")
    assert told.returncode == 0
    assert told.stdout.count("submitted as 'id-3'") == 2
    usage = results(output)["batch_req_000000003"]["response"]["body"]["usage"]
    assert len(re.findall(r"token \d+ is \d+", told.stdout)) == usage["completion_tokens"]


def test_a_changed_log_says_where(model: Path, source: Path, tmp_path: Path) -> None:
    events = tmp_path / "events"
    assert call(*_arguments(model, source, tmp_path / "out", "--event-log", events)).returncode == 0
    rows = events.read_text().splitlines(keepends=True)
    place = next(n for n, row in enumerate(rows) if '["batched"' in row)
    changed = json.loads(rows[place])
    changed[1][0][2][0] += 1
    rows[place] = json.dumps(changed) + "\n"
    events.write_text("".join(rows))
    again = call("replay", events)
    assert again.returncode == 1
    assert f"event {place - 1} (scheduled): it was Batched(" in again.stdout
    events.write_text("".join(rows[: place - 1]))
    cut = call("replay", events)
    assert cut.returncode == 2
    assert "the sums hold" in cut.stdout
    assert f"ends after event {place - 3} without its end" in cut.stderr


def test_what_is_no_part_of_a_log_has_no_story(model: Path, source: Path, tmp_path: Path) -> None:
    events = tmp_path / "events"
    assert call(*_arguments(model, source, tmp_path / "out", "--event-log", events)).returncode == 0
    told = call("replay", events, "--story", "nobody")
    assert told.returncode == 2
    assert "'nobody'" in told.stderr


def _fails_after(monkeypatch: pytest.MonkeyPatch, polls: int, error: Exception) -> None:
    """Tier 1 raises ``error`` when it is asked what happened so often."""
    real = LocalNode.poll

    def poll(self: LocalNode, timeout_s: float | None = None) -> list[TierEvent]:
        nonlocal polls
        polls -= 1
        if polls < 0:
            raise error
        return real(self, timeout_s)

    monkeypatch.setattr(LocalNode, "poll", poll)


@pytest.mark.parametrize("is_asked", [False, True])
def test_an_unexpected_error_leaves_the_events_and_says_where(
    model: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_asked: bool
) -> None:
    _fails_after(monkeypatch, 5, KeyError("nobody expects this"))
    output = tmp_path / "out.jsonl"
    place = tmp_path / ("events" if is_asked else "out.jsonl.events")
    more = ["--event-log", place] if is_asked else []
    with pytest.raises(KeyError) as caught:
        call(*_arguments(model, source, output, *more))
    assert any(f"events are in {place};" in note for note in caught.value.__notes__)
    again = call("replay", place)
    assert again.returncode == 0, again.stderr
    assert "ended by an unexpected error: KeyError: 'nobody expects this'" in again.stdout


def test_a_log_without_its_beginning_has_stories_only(
    model: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finish(*_: object) -> None:
        raise ValueError("the first answer is one too many")

    monkeypatch.setattr("glinthawk.engine.event_log.EventRing.__init__.__defaults__", (5, 1 << 20))
    monkeypatch.setattr(Job, "finish", finish)
    output = tmp_path / "out.jsonl"
    with pytest.raises(ValueError, match="one too many"):
        call(*_arguments(model, source, output))
    again = call("replay", f"{output}.events")
    assert again.returncode == 2
    assert "the scheduler's state before it is not known" in again.stderr
    rows = Path(f"{output}.events").read_text()
    finished = rows.split('["finished",')[1].split(",")[0]
    told = call("replay", f"{output}.events", "--story", finished)
    assert told.returncode == 0
    assert "finished: length" in told.stdout
    assert "events before" in call("replay", f"{output}.events", "--story", "id-1").stderr


def test_an_expected_error_leaves_no_events(
    model: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fails_after(monkeypatch, 5, WorkerLost("as foreseen"))
    assert call(*_arguments(model, source, tmp_path / "out.jsonl")).returncode == 2
    assert not (tmp_path / "out.jsonl.events").exists()


def test_events_that_cannot_be_kept_do_not_hide_the_error(
    model: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fails_after(monkeypatch, 5, KeyError("this one"))
    (tmp_path / "out.jsonl.events").mkdir()
    with pytest.raises(KeyError, match="this one") as caught:
        call(*_arguments(model, source, tmp_path / "out.jsonl"))
    assert any("could not be kept" in note for note in caught.value.__notes__)
