"""Batches of a server that is killed again and again, and what has become of them at the end."""

import random
import threading
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

from openai import OpenAI

from commands import kill, line, start
from glinthawk.serve.batch_states import ENDED
from glinthawk.serve.record_store import RecordStore
from servers import Server, content, running, upload, wait_for
from watching import wait_until

__all__ = ["check_kills", "create", "is_moving", "lines"]

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
                    now = (batch.status, batch.request_counts.total)  # type: ignore[union-attr]
                    if now not in states[-1:]:
                        states.append(now)


def check_kills(data: Path, seed: int, kills: int, batches: int, unready: int = 0) -> int:
    """Every line is answered once, none twice, and no state goes back. Says how many kills came
    while some batch had answers and was not done. Before each of them ``unready`` servers are
    killed that do not listen yet."""
    chance = random.Random(seed)
    count = 40 + 2 * kills
    with running(data) as server, server.client() as client:
        files = [upload(client, lines(number, count, 40)) for number in range(batches)]
        ids = [create(client, file) for file in files]
    with Watcher(data) as watcher:
        num_in_the_middle = 0
        for number in range(kills):
            for _ in range(unready):
                kill_unready(data, chance)
            num_in_the_middle += kill_serving(data, ids, chance, waits=number % 2 == 1)
        assert num_in_the_middle >= kills // 4
        check_answers(data, ids, count)
    assert set(watcher.seen) == set(ids)
    for states in watcher.seen.values():
        ranks = [RANK.get(state, 3) for state, _ in states]
        assert all(one <= other for one, other in pairwise(ranks))
    return num_in_the_middle


def kill_unready(data: Path, chance: random.Random) -> None:
    """At some moment of its start."""
    process = start("serve", "-m", "demo", "--data", data, "--port", 0)
    threading.Event().wait(chance.uniform(0, LONGEST_S))
    kill(process)


def kill_serving(data: Path, ids: list[str], chance: random.Random, *, waits: bool) -> bool:
    """Whether some batch was moving then, for which it ``waits`` first."""
    server = Server(data, "--batch-size", 4)
    with server.client() as client:
        if waits:
            wait_until(lambda: is_moving(client, ids) or is_over(client, ids))
        threading.Event().wait(chance.uniform(0, LONGEST_S))
        was_moving = is_moving(client, ids)
    server.kill()
    return was_moving


def check_answers(data: Path, ids: list[str], count: int) -> None:
    """Left alone, every batch completes, with each of its ``count`` lines once."""
    with running(data) as server, server.client() as client:
        done = [wait_for(client, id) for id in ids]
        answers = [content(client, one.output_file_id) for one in done]
    for batch, (one, found) in enumerate(zip(done, answers, strict=True)):
        assert (one.status, one.request_counts.completed) == ("completed", count)
        asked = [line["custom_id"] for line in lines(batch, count)]
        assert sorted(result["custom_id"] for result in found) == sorted(asked)
