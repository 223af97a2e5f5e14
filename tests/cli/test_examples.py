"""What documents show of a command is what it prints."""

import shlex
import textwrap
from pathlib import Path

import pytest

from commands import call

PLANNING = Path(__file__).parents[2] / "docs" / "planning.md"


def blocks(page: Path) -> list[str]:
    """Indented ones, in their order."""
    found: list[str] = []
    for paragraph in page.read_text().split("\n\n"):
        if paragraph.startswith("    "):
            found.append(textwrap.dedent(paragraph).strip())
    return found


def test_a_plan_is_the_one_that_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command, shown = blocks(PLANNING)[:2]
    monkeypatch.chdir(tmp_path)
    program, *arguments = shlex.split(command.replace("\\\n", " "))
    assert program == "glinthawk"
    done = call(*arguments)
    assert done.returncode == 0, done.stderr
    assert [text.rstrip() for text in done.stdout.splitlines()] == shown.splitlines()
    assert (tmp_path / "plan.json").exists()
