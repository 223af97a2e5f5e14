"""A server that is killed at any moment and started again answers every line once."""

import random
import threading
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from commands import line
from glinthawk.serve.batch_states import ENDED
from glinthawk.serve.record_store import RecordStore
from servers import Server, content, running, upload, wait_for
from watching import wait_until

RANK = {name: rank for rank, name in enumerate(("validating", "in_progress", "finalizing"))}
#: How long a server goes on before it is killed.
LONGEST_S = 1.0


def lines(batch: int, count: int, max_tokens: int = 24) -> list[dict[str, Any]]:
    body = {"max_tokens": max_tokens, "temperature": 1.0, "ignore_eos": True}
    return [
        line(f"{batch}-{number}", prompt=f"The list {number}", **body) for number in range(count)
    ]


def create(client: OpenAI, file: str, **more: Any) -> str:
    asked: Any = {"endpoint": "/v1/completions", "completion_window": "24h"} | more
    return client.batches.create(input_file_id=file, **asked).id


def is_moving(client: OpenAI, ids: list[str]) -> bool:
    """Whether some batch has answers, and is not done."""
    batches = [client.batches.retrieve(id) for id in ids]
    return any(one.request_counts.completed and one.status not in ENDED for one in batches)


def is_over(client: OpenAI, ids: list[str]) -> bool:
    return all(client.batches.retrieve(id).status in ENDED for id in ids)


class Watcher:
    """Asks for the states of batches all the time, through kills; keeps each that it has seen."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self.seen: dict[str, list[tuple[str, int]]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Watcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        """What is in the records, which is there before a client is told anything."""
        with closing(RecordStore(self._data / "records.sqlite")) as store:
            while not self._ended.wait(0.01):
                for batch in store.list_batches("", limit=1000).data:
                    states = self.seen.setdefault(batch.id, [])
                    states.append((batch.status, batch.request_counts.total))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("kills", "batches"), [(5, 6), pytest.param(200, 10, marks=pytest.mark.matrix)]
)
def test_every_line_is_answered_once(tmp_path: Path, kills: int, batches: int) -> None:
    data, chance = tmp_path / "data", random.Random(0)
    count = 40 + 2 * kills
    with running(data) as server, server.client() as client:
        files = [upload(client, lines(number, count, 40)) for number in range(batches)]
        ids = [create(client, file) for file in files]
    with Watcher(data) as watcher:
        num_in_the_middle = 0
        for number in range(kills):
            server = Server(data, "--batch-size", 4)
            with server.client() as client:
                if number % 2:
                    wait_until(lambda client=client: is_moving(client, ids) or is_over(client, ids))
                threading.Event().wait(chance.uniform(0, LONGEST_S))
                num_in_the_middle += is_moving(client, ids)
            server.kill()
        assert num_in_the_middle >= kills // 4
        with running(data) as server, server.client() as client:
            done = [wait_for(client, id) for id in ids]
            answers = [content(client, one.output_file_id) for one in done]
    for batch, (one, found) in enumerate(zip(done, answers, strict=True)):
        assert (one.status, one.request_counts.completed) == ("completed", count)
        asked = [line["custom_id"] for line in lines(batch, count)]
        assert sorted(result["custom_id"] for result in found) == sorted(asked)
    assert set(watcher.seen) == set(ids)
    for states in watcher.seen.values():
        ranks = [RANK.get(state, 3) for state, _ in states]
        assert all(one <= other for one, other in pairwise(ranks))


def test_a_kill_changes_no_answer(tmp_path: Path) -> None:
    """Sampled ones: the same whether their server was killed or not."""
    found = []
    for name, kills in (("undisturbed", 0), ("killed", 2)):
        with running(tmp_path / name) as server, server.client() as client:
            id = create(client, upload(client, lines(0, 40)))
        for _ in range(kills):
            Server(tmp_path / name).kill()
        with running(tmp_path / name) as server, server.client() as client:
            found.append(content(client, wait_for(client, id).output_file_id))
    for result in (*found[0], *found[1]):
        del result["response"]["body"]["created"]
    assert found[0] == found[1]


def test_fifty_batches_at_once_each_end(tmp_path: Path) -> None:
    with running(tmp_path / "data") as server, server.client() as client:
        files = [upload(client, lines(number, 3)) for number in range(50)]
        ids = [create(client, file) for file in files]
        for number, id in enumerate(ids):
            done = wait_for(client, id)
            assert done.request_counts.completed == 3
            found = {one["custom_id"] for one in content(client, done.output_file_id)}
            assert found == {f"{number}-{one}" for one in range(3)}
        assert server.metric("batches", status="completed") == 50
        assert server.metric("batches_ended_total", status="completed") == 50
    assert not list((tmp_path / "data" / "batches").iterdir())


def test_a_killed_server_still_cancels(tmp_path: Path) -> None:
    with running(tmp_path / "data") as server, server.client() as client:
        id = create(client, upload(client, lines(0, 100, 900)))
    server = Server(tmp_path / "data")
    with server.client() as client:
        assert client.batches.cancel(id).status == "cancelling"
    server.kill()
    with running(tmp_path / "data") as server, server.client() as client:
        done = wait_for(client, id)
        assert done.status == "cancelled"
        assert len(content(client, done.output_file_id)) == done.request_counts.completed


def test_the_end_of_its_window_ends_a_batch(tmp_path: Path) -> None:
    """Records are made to say that it began long ago."""
    with running(tmp_path / "data") as server, server.client() as client:
        id = create(client, upload(client, lines(0, 400)), completion_window="1m")
    with closing(RecordStore(tmp_path / "data" / "records.sqlite")) as store:
        import msgspec

        store.change_batch("", id, lambda now: msgspec.structs.replace(now, expires_at=1))
    with running(tmp_path / "data") as server, server.client() as client:
        done = wait_for(client, id)
        assert done.status == "expired" and done.expired_at
        counts = done.request_counts
        assert counts.failed and counts.completed + counts.failed == counts.total == 400
        late = content(client, done.error_file_id)
        assert {result["error"]["code"] for result in late} == {"batch_expired"}
        good = content(client, done.output_file_id)
        named = {result["custom_id"] for result in (*late, *good)}
        assert len(named) == len(late) + len(good) == 400


def test_the_end_of_its_window_ends_a_batch_of_other_settings(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(data, "--batch-size", 2) as server, server.client() as client:
        id = create(client, upload(client, lines(0, 100, 900)))
        wait_until(lambda: is_moving(client, [id]))
    with closing(RecordStore(data / "records.sqlite")) as store:
        import msgspec

        store.change_batch("", id, lambda now: msgspec.structs.replace(now, expires_at=1))
    with running(data, "--seed", 5) as server, server.client() as client:
        assert wait_for(client, id).status == "expired"


def test_the_nearest_deadline_goes_first(tmp_path: Path) -> None:
    with running(tmp_path / "data", "--batch-size", 2) as server, server.client() as client:
        slow = create(client, upload(client, lines(0, 200)), completion_window="7d")
        fast = create(client, upload(client, lines(1, 20)), completion_window="1h")
        assert wait_for(client, fast).request_counts.completed == 20
        other = client.batches.retrieve(slow)
        assert other.status == "in_progress" and other.request_counts.completed < 200
        client.batches.cancel(slow)
        wait_for(client, slow)


def test_an_interactive_request_goes_before_batches(tmp_path: Path) -> None:
    with running(tmp_path / "data", "--batch-size", 2) as server, server.client() as client:
        id = create(client, upload(client, lines(0, 300)))
        for _ in range(3):
            client.completions.create(model="demo", prompt="A", max_tokens=4)
        batch = client.batches.retrieve(id)
        assert batch.status in ("validating", "in_progress")
        assert batch.request_counts.completed < 300
        client.batches.cancel(id)
        wait_for(client, id)


def test_a_batch_of_other_settings_waits_for_them(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(data, "--batch-size", 2) as server, server.client() as client:
        id = create(client, upload(client, lines(0, 100, 900)))
        wait_until(lambda: is_moving(client, [id]))
    with running(data, "--seed", 5) as server, server.client() as client:
        wait_until(lambda: any("seed was 0 and is 5" in line for line in server.said))
        assert client.batches.retrieve(id).status == "in_progress"
        client.batches.cancel(id)
        done = wait_for(client, id)
        assert done.status == "cancelled" and done.request_counts.completed
