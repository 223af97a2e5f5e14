"""Every option that names a file to write is checked before anything else is done."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from commands import EXAMPLES, call
from glinthawk.cli.main import app

#: Enough of each command's other arguments to come to its work, were its outputs right.
ARGUMENTS: dict[str, list[object]] = {
    "run": ["-m", "nowhere/no-model", "-i", EXAMPLES],
    "plan": ["-m", "nowhere/no-model"],
    "simulate": ["--plan", "no-plan.json"],
    "profile": ["-m", "nowhere/no-model"],
}
#: Words of the help of an option that names a file to write.
_SIGNS = ("write ", "written", "appended")


def _outputs() -> Iterator[tuple[str, str]]:
    """(command, option)"""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        for parameter in command.params:
            text = str(getattr(parameter, "help", "")).lower()
            if any(sign in text for sign in _SIGNS):
                yield name, max(parameter.opts, key=len)


OUTPUTS = list(_outputs())


def test_they_are_all_found() -> None:
    assert {option for _, option in OUTPUTS} == {
        *("--output", "--stats-json", "--trace", "--event-log", "--out", "--report")
    }
    assert len(OUTPUTS) == 8


@pytest.mark.parametrize(("command", "option"), OUTPUTS)
def test_an_output_that_cannot_be_is_named_at_once(
    command: str, option: str, tmp_path: Path
) -> None:
    for path, reason in ((tmp_path / "no" / "file", "no folder"), (tmp_path, "is a folder")):
        done = call(command, *ARGUMENTS[command], option, path)
        assert done.returncode == 2
        assert f"{option}: cannot write {path}" in done.stderr
        assert reason in done.stderr
        assert "no-model" not in done.stderr and "no-plan" not in done.stderr
