"""``--log-json``: whoever collects logs gets objects, of whatever is said."""

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from commands import call, examples, glinthawk, run_arguments

LOGS = """
import logging, sys
from glinthawk.telemetry.json_log import log_as_json
log_as_json()
print("a", "b", file=sys.stderr)
sys.stderr.write("in two ")
sys.stderr.write("parts\\n\\n")
logging.getLogger("somebody").warning("mind %s", "that")
logging.getLogger("somebody").info("nobody hears this")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("somebody").exception("it broke")
"""


def _objects(text: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines()]
    for one in found:
        assert datetime.fromisoformat(one.pop("time")).tzinfo is not None
    return found


def test_whatever_is_said_is_an_object() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOGS], capture_output=True, text=True, check=True, timeout=60
    )
    *plain, broke = _objects(done.stderr)
    assert plain == [
        {"level": "info", "logger": "glinthawk", "message": "a b"},
        {"level": "info", "logger": "glinthawk", "message": "in two parts"},
        {"level": "warning", "logger": "somebody", "message": "mind that"},
    ]
    assert (broke["level"], broke["message"]) == ("error", "it broke")
    assert "ZeroDivisionError" in broke["traceback"]


def test_a_run_says_so_what_it_does(tmp_path: Path) -> None:
    source = examples(tmp_path / "in.jsonl", 2)
    done = glinthawk(*run_arguments(source, tmp_path / "out.jsonl", "--log-json"))
    assert done.returncode == 0, done.stderr
    messages = [one["message"] for one in _objects(done.stderr)]
    assert "loading demo" in messages
    assert any(one.startswith("2 results, none of them errors") for one in messages)


def test_errors_are_of_their_level(tmp_path: Path) -> None:
    done = call("run", "-m", "demo", "-i", tmp_path / "in", "-o", tmp_path / "out", "--log-json")
    assert done.returncode == 2
    [said] = _objects(done.stderr)
    assert said["level"] == "error" and "cannot read" in said["message"]


def test_all_that_run_for_long_have_it() -> None:
    for command in ("run", "serve", "worker", "node"):
        assert "--log-json" in call(command, "--help").stdout
