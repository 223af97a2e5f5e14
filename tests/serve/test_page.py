"""The live page without a browser: its files, its events, who may read them."""

import json
import re
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from openai import OpenAI

from commands import PATIENCE_S, line
from servers import Server, running, upload, wait_for

HOSTILE = "<img src=x onerror=alert(1)>\n\nevent: end\ndata: {}.jsonl"


def get(server: Server, path: str, key: str = "") -> Any:
    """An answer, open."""
    root = server.url.removesuffix("/v1")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return urlopen(Request(f"{root}{path}", headers=headers), timeout=PATIENCE_S)


@contextmanager
def told(server: Server, key: str = "") -> Iterator[Iterator[tuple[str, Any]]]:
    """Events of the page as a browser reads them: names and data."""
    with get(server, "/page/events", key) as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        yield _events(stream)


def _events(stream: Any) -> Iterator[tuple[str, Any]]:
    fields: dict[str, str] = {}
    for raw in stream:
        name, _, value = raw.decode().rstrip("\n").partition(": ")
        if name:
            assert name in ("event", "data")
            assert name not in fields
            fields[name] = value
        else:
            yield fields["event"], json.loads(fields["data"])
            fields = {}


def test_all_that_the_page_loads_is_here_and_nothing_else_may_be(server: Server) -> None:
    with get(server, "/") as answer:
        page, policy = answer.read().decode(), answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    names = re.findall(r'(?:src|href)="([^"]+)"', page)
    scripts = [name for name in names if name.endswith("live.js")]
    for name in [*names, "page/stream.js", "page/plots.js", "page/words.js"]:
        with get(server, f"/{name}") as answer:
            assert answer.read()
            assert answer.headers["Content-Security-Policy"] == policy
    assert scripts
    # What would run or load by the page's own text.
    assert not re.search(r"https?://|<script>|\son\w+=|style=", page)


def test_nothing_of_a_page_makes_html_of_text() -> None:
    import glinthawk.serve

    for script in (Path(glinthawk.serve.__file__).parent / "page").glob("*.js"):
        if not script.name.startswith("uPlot"):
            assert not re.search(r"innerHTML|outerHTML|insertAdjacent|\beval\b", script.read_text())


def test_a_job_moves_and_its_words_stay_data(server: Server, client: OpenAI) -> None:
    lines = [line(str(number), prompt=f"Item {number}", max_tokens=40) for number in range(40)]
    file = upload(client, lines, HOSTILE)
    window: Any = {"endpoint": "/v1/completions", "completion_window": "1h"}
    with told(server) as events:
        name, first = next(events)
        assert (name, first["is_whole"], first["kind"]) == ("now", True, "server")
        batch = client.batches.create(
            input_file_id=file, metadata={"note": "</script><b>"}, **window
        )
        seen = []
        for name, state in events:
            assert name == "now"
            job = next((one for one in state["jobs"] if one["id"] == batch.id), None)
            seen += [job] if job else []
            if job and job["status"] == "completed":
                break
    done = [one["done"] for one in seen]
    assert done == sorted(done)
    assert done[-1] == seen[-1]["total"] == 40
    assert seen[-1]["note"] == "note: </script><b>"
    assert seen[-1]["name"] == client.files.retrieve(file).filename
    assert state["tokens"] >= 40
    assert state["kv_room"] > 0
    wait_for(client, batch.id)


def test_points_are_told_once(server: Server) -> None:
    with told(server) as events:
        times = []
        for _, state in events:
            times += state["points"]["at"]
            assert len({*map(len, state["points"].values())}) == 1
            if len(times) > 2 and not state["is_whole"]:
                break
    assert times == sorted(set(times))


def test_a_key_is_asked_for_and_shows_what_is_its_own(tmp_path: Path) -> None:
    keys = ["--api-key", "alice=one", "--api-key", "bob=two"]
    with running(tmp_path / "data", *keys) as server:
        for key in ("", "three"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                get(server, "/page/events", key)
            assert refused.value.code == 401
            refused.value.close()
        # A key in an address is none.
        with pytest.raises(urllib.error.HTTPError) as refused:
            get(server, "/page/events?key=one&api_key=one")
        refused.value.close()
        with get(server, "/") as page:
            assert page.status == 200
        with server.client("one") as alice:
            _answer_a_batch(alice)
        with told(server, "one") as hers, told(server, "two") as his:
            assert len(next(hers)[1]["jobs"]) == 1
            assert next(his)[1]["jobs"] == []
            # Who looks on does not hold up the end: their streams are ended.
            assert server.end() == 0
            assert [name for name, _ in hers][-1] == "end"
            assert [name for name, _ in his][-1] == "end"


def _answer_a_batch(client: OpenAI) -> None:
    file = upload(client, [line("a", prompt="A", max_tokens=2)])
    window: Any = {"endpoint": "/v1/completions", "completion_window": "1h"}
    wait_for(client, client.batches.create(input_file_id=file, **window).id)
