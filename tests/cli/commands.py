"""The ``glinthawk`` command in processes of its own, or in the test's where that proves as much."""

import io
import json
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import typer

from glinthawk.cli.main import app, main
from result_schema import check_result

__all__ = [
    "EXAMPLES",
    "PATIENCE_S",
    "call",
    "examples",
    "glinthawk",
    "kill",
    "line",
    "results",
    "run_arguments",
    "start",
    "write_lines",
]

EXAMPLES = Path(__file__).parents[2] / "examples" / "prompts.jsonl"
_COMMAND = [sys.executable, "-m", "glinthawk"]


#: Of a command that will end: long, for machines differ, and some do other things as well.
PATIENCE_S = 600


def glinthawk(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command = [*_COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def call(*arguments: object, commands: typer.Typer = app) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in this process, where the libraries are loaded already."""
    words = ["glinthawk", *map(str, arguments)]
    said, complained = io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(complained), patch.object(sys, "argv", words):
        status = _status_of_main(commands)
    return subprocess.CompletedProcess(words, status, said.getvalue(), complained.getvalue())


def _status_of_main(commands: typer.Typer) -> int:
    try:
        main(commands)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def start(*arguments: object) -> subprocess.Popen[str]:
    """Begin a command in a process group of its own; read its standard error as it goes."""
    command = [*_COMMAND, *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run_arguments(source: Path, output: Path, *more: object) -> list[object]:
    """``run`` with the demo model and two small workers."""
    places = ["--tier2", "local:2", "--worker-kv", "64MiB"]
    return ["run", "-m", "demo", "-i", source, "-o", output, *places, *more]


def line(custom_id: str, **body: Any) -> dict[str, Any]:
    """A completion request."""
    url = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def write_lines(path: Path, lines: list[dict[str, Any]]) -> Path:
    """A batch file."""
    path.write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    return path


def examples(path: Path, count: int) -> Path:
    """A batch file with the first of the examples."""
    path.write_text("".join(EXAMPLES.read_text().splitlines(keepends=True)[:count]))
    return path


def results(output: Path) -> dict[str, dict[str, Any]]:
    """Result lines by ``id``, without the times; asserts that no line has two."""
    found: dict[str, dict[str, Any]] = {}
    for text in output.read_text().splitlines():
        result = check_result(json.loads(text))
        assert result["id"] not in found
        if result["response"] is not None:
            result["response"]["body"].pop("created", None)
        found[result["id"]] = result
    return found


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL to the command alone; its workers must find out by themselves."""
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
