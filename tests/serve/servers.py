"""``glinthawk serve`` in a process of its own, and OpenAI's client for it."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

from commands import PATIENCE_S, kill, start
from watching import wait_until

__all__ = ["ENDED", "Server", "content", "running", "upload", "wait_for"]

ENDED = ("completed", "failed", "expired", "cancelled")


class Server:
    """Serves the demo model from ``data`` when it is made."""

    def __init__(self, data: Path, *more: object) -> None:
        self.data = data
        self._process = start("serve", "-m", "demo", "--data", data, "--port", 0, *more)
        self.said: list[str] = []
        self.url = self._read_url()
        # Whoever speaks into a full pipe waits.
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def client(self, key: str = "any", **more: Any) -> OpenAI:
        """Closed by whoever asks for it."""
        return OpenAI(base_url=self.url, api_key=key, max_retries=0, timeout=PATIENCE_S, **more)

    @property
    def pid(self) -> int:
        return self._process.pid

    def metrics(self) -> list[Any]:
        """All families of /metrics, parsed."""
        with urlopen(self.url.removesuffix("/v1") + "/metrics") as answer:
            return list(text_string_to_metric_families(answer.read().decode()))

    def metric(self, name: str, **labels: str) -> float:
        """What /metrics say of glinthawk:``name`` now; 0 where they say nothing yet."""
        samples = [sample for family in self.metrics() for sample in family.samples]
        named = [one for one in samples if one.name == f"glinthawk:{name}"]
        return sum(one.value for one in named if labels.items() <= one.labels.items())

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._wait()

    def end(self) -> int:
        """SIGTERM, which ends it in order; its exit status."""
        self._process.terminate()
        return self._wait()

    def _wait(self) -> int:
        status = self._process.wait(PATIENCE_S)
        self._reader.join()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()
        return status

    def _read_url(self) -> str:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.said.append(line)
            if found := re.search(r"serving \S+ at (\S+)", line):
                return found[1]
        kill(self._process)
        raise AssertionError("".join(self.said))

    def _read(self) -> None:
        assert self._process.stderr is not None
        self.said.extend(self._process.stderr)


@contextmanager
def running(data: Path, *more: object) -> Iterator[Server]:
    """Ended in order, which has to succeed."""
    server = Server(data, *more)
    try:
        yield server
    except BaseException:
        server.kill()
        raise
    status = server.end()
    assert status == 0, server.said


def upload(client: OpenAI, lines: list[dict[str, Any]], name: str = "in.jsonl") -> str:
    """The id of a file of ``lines``."""
    raw = "".join(json.dumps(line) + "\n" for line in lines).encode()
    return client.files.create(file=(name, raw), purpose="batch").id


def wait_for(client: OpenAI, id: str) -> Any:
    """The batch, when it has ended."""
    wait_until(lambda: client.batches.retrieve(id).status in ENDED)
    return client.batches.retrieve(id)


def content(client: OpenAI, id: str | None) -> list[dict[str, Any]]:
    """The lines of a file, in order of their input; none of none."""
    if id is None:
        return []
    text = client.files.content(id).text
    assert text.endswith("\n")
    return sorted(map(json.loads, text.splitlines()), key=lambda line: str(line["id"]))
