"""Help is read at 80 columns, and begins at once."""

import json
import os
import subprocess
import sys

import pytest
import typer

from commands import call
from glinthawk import __version__
from glinthawk.cli.command_table import Commands
from glinthawk.cli.main import app
from glinthawk.cli.panels import COMMON, TITLES, placed_options

#: What takes long to import, and what no help needs.
HEAVY = ("torch", "transformers", "numpy", "zmq", "rich", "huggingface_hub", "glinthawk.planner")
ADDRESSES = ("tcp://host:port?key=KEY", "tcp+plain://host:port?password=PASSWORD")


def _help(*words: str) -> str:
    done = call(*words, "--help")
    assert done.returncode == 0
    return done.stdout


def test_run_has_its_options_in_panels_the_common_ones_first() -> None:
    lines = _help("run").splitlines()
    titles = [line for line in lines if line in TITLES]
    assert titles == list(TITLES)
    assert titles[0] == COMMON
    common = "\n".join(lines[: lines.index(TITLES[1])])
    for name in ("--model", "--input", "--output", "--tier2", "--config", "--errors"):
        assert name in common


def test_every_option_of_run_is_placed() -> None:
    run = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
    assert {option.name for option in run.params} == placed_options()


@pytest.mark.parametrize("command", ["", "run", "plan", "simulate", "worker", "replay", "bench"])
def test_nothing_is_cut_at_80_columns(command: str) -> None:
    said = _help(*command.split())
    assert all(len(line) <= 80 for line in said.splitlines())
    assert not {"…", "<bool>", "╭", "Required. Default"} & set(said.split())
    if command == "run":
        assert all(address in said for address in ADDRESSES)


def test_arguments_have_one_name() -> None:
    said = call("merge", "--help").stdout
    assert "merge [OPTIONS] OUTPUT PARTS..." in said
    assert "--endpoint chat|completions|embeddings\n" in call("run", "--help").stdout


def test_what_is_left_out_is_said() -> None:
    said = " ".join(_help("run").split())
    assert (
        "--batch-tokens N Most tokens of one step; a longer prompt takes several, in chunks."
        in (said)
    )
    assert "several, in chunks. Default: 2048." in said
    assert "no seed of their own. Default: 0." in said
    assert "hub name, GGUF file, or demo. Required without --server." in said
    assert "--input TEXT OpenAI batch lines" in said and "is standard input. Required." in said
    assert "Default: 2GiB without workers, else 0. --worker-kv" in said


def test_every_command_is_there_by_its_name() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert [command.name for command in commands.values()] == list(commands)
    assert isinstance(typer.main.get_command(app), Commands)
    assert all(f"\n  {name} " in _help() for name in commands)


def test_the_version_is_told() -> None:
    assert call("--version").stdout == f"glinthawk {__version__}\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("rnu", "Did you mean 'run'"),
        ("run --bach-size 3", "--batch-size"),
    ],
)
def test_what_is_misspelt_is_answered_with_the_nearest(words: str, says: str) -> None:
    done = call(*words.split())
    assert done.returncode == 2
    assert says in done.stderr


def _complete(words: str) -> list[str]:
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", "from glinthawk.cli.main import app; app(prog_name='glinthawk')"],
        env={**os.environ, **asked, "_GLINTHAWK_COMPLETE": "complete_bash"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_a_shell_completes_commands_options_and_values() -> None:
    assert _complete("glinthawk p") == ["plan", "profile"]
    assert "--batch-size" in _complete("glinthawk run --ba")
    assert _complete("glinthawk run --kv-placement ") == ["near", "fetch"]


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import json, sys\n"
        "from glinthawk.cli.main import app\n"
        "import glinthawk\n"
        "for words in (['--help'], ['run', '--help']):\n"
        "    try: app(words)\n"
        "    except SystemExit: pass\n"
        f"print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []
