"""Every option that names a file to write is checked before anything else is done."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from commands import EXAMPLES, call
from glinthawk.cli.main import app
from glinthawk.cli.outputs import check_apart
from glinthawk.core.errors import UsageError

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
            is_flag = getattr(parameter, "is_flag", False)
            if not is_flag and any(sign in text for sign in _SIGNS):
                yield name, max(parameter.opts, key=len)


OUTPUTS = list(_outputs())


def test_they_are_all_found() -> None:
    assert {option for _, option in OUTPUTS} == {
        *("--output", "--errors", "--stats-json", "--trace", "--event-log", "--out", "--report")
    }
    assert len(OUTPUTS) == 9


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


@pytest.mark.parametrize("option", ["-o", "--errors", "--stats-json", "--trace", "--event-log"])
def test_no_output_overwrites_another_file_of_the_job(option: str, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(EXAMPLES.read_bytes())
    arguments = ["run", "-m", "demo", "-i", source, "-o", output, option]
    link, hard_link = tmp_path / "link", tmp_path / "hard-link"
    link.symlink_to(source)
    hard_link.hardlink_to(source)
    for path, other in ((source, "-i"), (link, "-i"), (hard_link, "-i"), (output, "-o")):
        if option != other:
            done = call(*arguments, path)
            assert done.returncode == 2
            assert f"{option}: {path} is the file of {other} too" in done.stderr
    assert source.read_bytes() == EXAMPLES.read_bytes()
    assert not output.exists()


def test_two_outputs_may_both_be_thrown_away(tmp_path: Path) -> None:
    check_apart({"--trace": Path("/dev/null"), "--stats-json": Path("/dev/null")})
    with pytest.raises(UsageError, match=r"--stats-json: .* is the file of --trace too"):
        check_apart({"--trace": tmp_path / "a", "--stats-json": tmp_path / "b" / ".." / "a"})
