"""``glinthawk run --server``: the same lines, answered by a server that runs already."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from commands import call, line, results, run_arguments, start, write_lines
from glinthawk.client import batch_api
from glinthawk.client.batch_api import BatchApi
from glinthawk.client.handed_record import handed_path, load_handed
from glinthawk.core.errors import ServerLost, UsageError
from servers import Server, running
from watching import wait_until

KEY = "secret"
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("served") / "data"
    with running(data, "--api-key", KEY, "--max-body-size", "4KiB") as begun:
        yield begun


def hand_in(server: Server, source: Path, output: Path, *more: object) -> Any:
    words = ["run", "--server", server.url, "--api-key", KEY, "-i", source, "-o", output]
    return call(*words, *more)


def num_batches(server: Server) -> int:
    with server.client(KEY) as client:
        return len(list(client.batches.list()))


def long_lines(count: int) -> list[dict[str, Any]]:
    return [line(str(n), prompt="A list", max_tokens=100, ignore_eos=True) for n in range(count)]


def test_results_are_those_of_a_run_without_it(server: Server, tmp_path: Path) -> None:
    """Lines of several endpoints, and lines that no server takes."""
    lines = [
        line("a", prompt="The list", max_tokens=8, temperature=1.0),
        line("chat", messages=HELLO, max_tokens=8),
        line("a", prompt="twice", max_tokens=8),
        {**line("b", prompt="The dict", max_tokens=8), "url": "/nothing"},
        line("bad", prompt="The dict", max_tokens=-1),
        {"custom_id": "no body", "url": "/v1/completions"},
        line("last", prompt="The dict", max_tokens=8, n=2, temperature=1.0),
    ]
    source = write_lines(tmp_path / "in.jsonl", lines)
    source.write_text("\n" + source.read_text() + "no JSON")
    here = call(*run_arguments(source, tmp_path / "here"))
    there = hand_in(server, source, tmp_path / "there", "--errors", tmp_path / "failed")
    assert (there.returncode, here.returncode) == (1, 1), there.stderr
    assert results(tmp_path / "there") == results(tmp_path / "here")
    assert len((tmp_path / "failed").read_text().splitlines()) == 5
    assert "8 results, 5 of them errors" in there.stderr
    assert not handed_path(tmp_path / "there").exists()
    with server.client(KEY) as client:
        assert not list(client.files.list())
    again = hand_in(server, source, tmp_path / "there")
    assert again.returncode == 1 and "every line has its result" in again.stderr


def test_a_table_becomes_a_table(server: Server, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("text\nA list\nA dict\n")
    more = ["--prompt-column", "text", "--endpoint", "completions", "--max-tokens", 4]
    done = hand_in(server, tmp_path / "in.csv", tmp_path / "out.parquet", *more)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} >= {"out.parquet"}
    assert not (tmp_path / "out.parquet.results.jsonl.batches").exists()


def test_interrupted_it_goes_on_with_the_same_batch(server: Server, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", long_lines(3))
    output, before = tmp_path / "out", num_batches(server)
    process = start("run", "--server", server.url, "--api-key", KEY, "-i", source, "-o", output)
    wait_until(lambda: None not in getattr(load_handed(output), "batches", {"": None}).values())
    process.kill()
    process.communicate()
    with patch("glinthawk.client.server_job.time.sleep", side_effect=KeyboardInterrupt):
        stopped = hand_in(server, source, output)
    assert stopped.returncode == 130 and "goes on at" in stopped.stderr
    done = hand_in(server, source, output)
    assert done.returncode == 0, done.stderr
    assert "going on with what was handed in before" in done.stderr
    assert len(results(output)) == 3
    assert num_batches(server) == before + 1


def test_a_batch_whose_id_was_never_heard_is_found(server: Server, tmp_path: Path) -> None:
    """The call that makes it is answered, and nobody is there any more."""
    source = write_lines(tmp_path / "in.jsonl", long_lines(3))
    output, before = tmp_path / "out", num_batches(server)
    create = BatchApi.create

    def create_and_die(*given: Any) -> None:
        create(*given)
        raise KeyboardInterrupt

    with patch.object(BatchApi, "create", create_and_die):
        assert hand_in(server, source, output).returncode == 130
    assert list(load_handed(output).batches.values()) == [None]  # type: ignore[union-attr]
    assert hand_in(server, source, output).returncode == 0
    assert len(results(output)) == 3
    assert num_batches(server) == before + 1


def test_results_that_were_fetched_in_part_are_not_taken_twice(
    server: Server, tmp_path: Path
) -> None:
    source, output = write_lines(tmp_path / "in.jsonl", long_lines(5)), tmp_path / "out"
    fetch = BatchApi.lines

    def fetch_and_break_off(*given: Any) -> Iterator[bytes]:
        yield from list(fetch(*given))[:2]
        raise KeyboardInterrupt

    with patch.object(BatchApi, "lines", fetch_and_break_off):
        assert hand_in(server, source, output).returncode == 130
    assert len(results(output)) == 2
    with source.open("a") as more:
        more.write(json.dumps(line("new", prompt="A", max_tokens=2)) + "\n")
    done = hand_in(server, source, output)
    assert done.returncode == 0, done.stderr
    assert len(results(output)) == 6


def test_begun_anew_it_cancels_what_was_handed_in(server: Server, tmp_path: Path) -> None:
    source, output = write_lines(tmp_path / "in.jsonl", long_lines(150)), tmp_path / "out"
    with patch("glinthawk.client.server_job.time.sleep", side_effect=KeyboardInterrupt):
        assert hand_in(server, source, output).returncode == 130
    [old] = load_handed(output).batches.values()  # type: ignore[union-attr]
    handed = load_handed(output)
    assert handed is not None
    with pytest.raises(UsageError, match="give --server"):
        handed.check_server("http://other")
    other = write_lines(tmp_path / "other.jsonl", long_lines(2))
    assert "is not what was handed in" in hand_in(server, other, output).stderr
    assert hand_in(server, other, output, "--restart").returncode == 0
    assert len(results(output)) == 2
    with server.client(KEY) as client:
        assert old and client.batches.retrieve(old).status in ("cancelling", "cancelled")
    write_lines(other, long_lines(3))
    handed_path(output).write_text("torn")
    assert "is no record of batches" in hand_in(server, other, output).stderr
    assert hand_in(server, other, output, "--restart").returncode == 0


def test_what_was_cancelled_there_is_handed_in_again(server: Server, tmp_path: Path) -> None:
    source, output = write_lines(tmp_path / "in.jsonl", long_lines(60)), tmp_path / "out"
    cancelled = threading.Event()

    def cancel(_: float) -> None:
        if not cancelled.is_set():
            with server.client(KEY) as client:
                client.batches.cancel(client.batches.list().data[0].id)
            cancelled.set()

    with patch("glinthawk.client.server_job.time.sleep", cancel):
        stopped = hand_in(server, source, output)
    assert stopped.returncode == 2 and "was cancelled at the server" in stopped.stderr
    assert hand_in(server, source, output).returncode == 0
    assert len(results(output)) == 60


def test_errors_are_run_again(server: Server, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [line("a", prompt="A"), line("b", prompt=3)])
    assert hand_in(server, source, tmp_path / "out").returncode == 1
    done = hand_in(server, source, tmp_path / "out", "--retry-errors")
    assert done.returncode == 1 and "resuming: 2 lines have their results" in done.stderr
    assert len(results(tmp_path / "out")) == 2


def test_to_a_pipe_all_is_written_and_what_is_left_is_cancelled(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = write_lines(tmp_path / "in.jsonl", [line("a", prompt="A", max_tokens=2)])
    assert hand_in(server, source, Path("/dev/stdout")).returncode == 0
    assert json.loads(capfd.readouterr().out)["custom_id"] == "a"
    with patch("glinthawk.client.server_job.time.sleep", side_effect=KeyboardInterrupt):
        stopped = hand_in(server, write_lines(source, long_lines(99)), Path("/dev/stdout"))
    assert stopped.returncode == 130 and "cancelled at the server" in stopped.stderr


def test_a_server_that_is_away_is_waited_for(server: Server, tmp_path: Path) -> None:
    source, output = write_lines(tmp_path / "in.jsonl", long_lines(2)), tmp_path / "out"
    retrieve, num_calls = BatchApi.retrieve, 0

    def retrieve_at_last(*given: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 2:
            raise ServerLost("nobody is there")
        return retrieve(*given)

    with patch.object(BatchApi, "retrieve", retrieve_at_last):
        done = hand_in(server, source, output)
    assert done.returncode == 0 and "nobody is there; waiting for it" in done.stderr
    assert num_calls > 2 and len(results(output)) == 2


def test_another_kind_of_server_is_told(server: Server, tmp_path: Path) -> None:
    """One that has paths of its own, and one whose models are not ours."""
    source = write_lines(tmp_path / "in.jsonl", [line("a", prompt="A", max_tokens=2)])
    place = server.url.removesuffix("/v1")
    done = hand_in(server, source, tmp_path / "out", "--server", f"{place}/health")
    assert done.returncode == 2 and "refuses that" in done.stderr
    with patch.object(batch_api, "_OWNER", "somebody"):
        done = hand_in(server, source, tmp_path / "out")
    assert done.returncode == 2 and "is no `glinthawk serve`" in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--server {url} --api-key wrong", "wants one of its keys; give it with --api-key"),
        ("--server http://127.0.0.1:9 --api-key k", "does not answer"),
        ("--server nothing", "is no address; write it like http://host:8000"),
        ("--server {url} -m demo", "--model is the server's own with --server; leave it out"),
        ("--server {url} --trace t", "--trace is the server's own with --server; leave it out"),
        ("--server {url} --api-key secret --completion-window soon", "completion_window must be"),
        ("--tier1-kv 1MiB", "give -m a model, or --server a server that has one"),
    ],
)
def test_what_cannot_be_is_told(server: Server, tmp_path: Path, words: str, says: str) -> None:
    source = write_lines(tmp_path / "in.jsonl", [line("a", prompt="A", max_tokens=2)])
    given = words.format(url=server.url).split()
    done = call("run", "-i", source, "-o", tmp_path / "out", *given)
    assert done.returncode == 2
    assert says in done.stderr


def test_lines_that_are_too_long_fail_the_batch(server: Server, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [line("a", prompt="A" * 5000)])
    done = hand_in(server, source, tmp_path / "out")
    assert done.returncode == 2
    assert "the server cannot answer batch_" in done.stderr
    assert "line 1: the line has more than" in done.stderr
