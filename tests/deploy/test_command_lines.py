"""What files in deploy/ start can be started: every option is one of the command line's."""

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from glinthawk.cli.main import app

DEPLOY = Path(__file__).parents[2] / "deploy"
#: What stands for what an environment gives.
GIVEN = {"KV": "200GiB", "TIER1_KEY": "K", "LINK_PASSWORD": "P"}


def _of_compose() -> Iterator[list[str]]:
    for service in yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].values():
        yield [_filled(word) for word in service["command"]]


def _of_kubernetes() -> Iterator[list[str]]:
    for part in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()):
        if part["kind"] == "StatefulSet":
            for container in part["spec"]["template"]["spec"]["containers"]:
                yield [_filled(word) for word in container["args"]]


def _of_systemd() -> Iterator[list[str]]:
    for unit in sorted((DEPLOY / "systemd").glob("*.service")):
        [line] = [one for one in unit.read_text().splitlines() if one.startswith("ExecStart=")]
        words = shlex.split(line.partition("=")[2])
        assert words[0] == "/opt/glinthawk/bin/glinthawk"
        yield [
            _filled(word).replace("/etc/glinthawk", str(DEPLOY / "systemd")) for word in words[1:]
        ]


def _filled(word: str) -> str:
    """As the environment fills it in: ${NAME:-default}, ${NAME:?why}, ${NAME} and $(NAME)."""
    for opening, closing in (("${", "}"), ("$(", ")")):
        while opening in word:
            before, _, rest = word.partition(opening)
            name, _, after = rest.partition(closing)
            name, _, default = name.partition(":-")
            word = before + (default or GIVEN.get(name, "given")) + after
    return word


LINES = [*_of_compose(), *_of_kubernetes(), *_of_systemd()]


def test_all_are_found() -> None:
    assert sorted(words[0] for words in LINES) == ["serve"] * 3 + ["worker"] * 4


@pytest.mark.parametrize("words", LINES, ids=" ".join)
def test_it_can_be_given(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, and the values as far as they are checked before a command begins."""
    command: Any = typer.main.get_command(app).commands[words[0]]  # type: ignore[attr-defined]
    context = command.make_context(words[0], words[1:])
    given = context.params
    if words[0] == "serve":
        assert given["model"] and len(given["tier2"]) == 2 and given["host"] == "0.0.0.0"
        assert given["data"].is_absolute() and given["wait_for_workers"] == 600
    else:
        assert given["kv"].endswith("GiB") and given["listen"].endswith(":7001")
        # Whoever may connect is known by a password or by a key.
        assert given["password_file"] or given["allow"]


def test_ports_and_folders_fit_together() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    tier1 = compose["services"]["tier1"]
    assert {os.path.dirname(one.partition(":")[2] + "/") for one in tier1["volumes"]} == {
        "/data",
        "/models",
    }
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert "EXPOSE 8000 7001" in dockerfile
    assert "/data /models" in dockerfile and "HF_HOME=/models" in dockerfile
    targets = {"cpu", "cuda"}
    assert {one for one in targets if f"FROM base AS {one}" in dockerfile} == targets
    for service in compose["services"].values():
        assert service["image"].removeprefix("glinthawk:") in targets
