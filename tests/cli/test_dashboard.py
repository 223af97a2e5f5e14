"""``glinthawk run --dashboard``: the page of one run."""

import json
import re
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from commands import PATIENCE_S, call, examples, results, run_arguments, start
from glinthawk.cli.bare_options import fill_bare


def test_a_run_is_shown_until_it_ends(tmp_path: Path) -> None:
    source, output = examples(tmp_path / "in.jsonl", 60), tmp_path / "out.jsonl"
    process = start(*run_arguments(source, output, "--dashboard"))
    assert process.stderr is not None
    said = (re.search(r"page: (http://127\.0\.0\.1:\d+/)", text) for text in process.stderr)
    url = next(found[1] for found in said if found)
    states = []
    with urlopen(f"{url}page/events", timeout=PATIENCE_S) as stream:
        name = b""
        for raw in stream:
            if raw.startswith(b"event: "):
                name = raw
            elif raw.startswith(b"data: ") and name == b"event: now\n":
                states.append(json.loads(raw.removeprefix(b"data: ")))
    # The stream comes to its end with the run, and its last word is that all is answered.
    assert name == b"event: end\n"
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert len(results(output)) == 60
    (job,) = states[-1]["jobs"]
    assert (job["name"], job["status"], job["done"], job["total"]) == (
        "in.jsonl",
        "completed",
        60,
        60,
    )
    assert [place["name"] for place in states[-1]["places"]] == ["Worker 1", "Worker 2"]
    assert states[-1]["kind"] == "run"


@pytest.mark.parametrize(
    "arguments, filled",
    [
        (["--dashboard"], ["--dashboard=127.0.0.1:0"]),
        (["--dashboard", "-o", "x"], ["--dashboard=127.0.0.1:0", "-o", "x"]),
        (["--dashboard", ":80", "-o"], ["--dashboard", ":80", "-o"]),
        (["--dashboard=h:1", "--quiet"], ["--dashboard=h:1", "--quiet"]),
        (["--trace", "--dashboard"], ["--trace", "--dashboard=127.0.0.1:0"]),
    ],
)
def test_an_address_may_be_left_out(arguments: list[str], filled: list[str]) -> None:
    assert fill_bare(arguments) == filled


@pytest.mark.parametrize("address", ["nonsense", "localhost:", "h:99999", "a:b:1"])
def test_an_address_that_is_none_is_refused_before_any_work(address: str, tmp_path: Path) -> None:
    done = call(*run_arguments(tmp_path / "none", tmp_path / "out", "--dashboard", address))
    assert done.returncode == 2
    assert "HOST:PORT" in done.stderr


def test_without_its_packages_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = call(*run_arguments(tmp_path / "none", tmp_path / "out", "--dashboard"))
    assert done.returncode == 2
    assert "pip install 'glinthawk[serve]'" in done.stderr
