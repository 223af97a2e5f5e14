"""Options of a run from a TOML file."""

from pathlib import Path
from typing import Any

import pytest

from commands import call
from glinthawk.cli import converted_job
from glinthawk.cli.file_options import FileOptions
from glinthawk.cli.job_options import JobOptions
from glinthawk.core.config import EngineConfig

WHOLE = """
model = "demo"
input = "in"
output = "{folder}/out"
tier2 = "local:2"
worker-kv = "1GiB"
batch_size = 7
xcache = 0.25
batch-invariant = false
quiet = true
"""


@pytest.fixture
def arrived(monkeypatch: pytest.MonkeyPatch) -> list[tuple[EngineConfig, FileOptions, JobOptions]]:
    """What runs were asked for."""
    found: list[tuple[EngineConfig, FileOptions, JobOptions]] = []

    def answer(
        config: EngineConfig, _: object, files: FileOptions, options: JobOptions, *__: object
    ) -> int:
        found.append((config, files, options))
        return 0

    monkeypatch.setattr(converted_job, "answer_input", answer)
    return found


def _run(folder: Path, content: str, *words: object) -> Any:
    path = folder / "run.toml"
    path.write_text(content.format(folder=folder))
    return call("run", "--config", path, *words)


def test_every_option_may_stand_in_the_file(arrived: list[Any], tmp_path: Path) -> None:
    done = _run(tmp_path, WHOLE)
    assert done.returncode == 0, done.stderr
    ((config, files, options),) = arrived
    assert config == EngineConfig(
        model="demo", tier2=("local:2",), worker_kv="1GiB", batch_size=7, xcache=0.25
    )
    assert (files.input, files.output) == ("in", str(tmp_path / "out"))
    assert options.quiet


def test_the_command_line_goes_before_it(arrived: list[Any], tmp_path: Path) -> None:
    words = ["--batch-size", 9, "--tier2", "local:1", "-o", tmp_path / "other"]
    assert _run(tmp_path, WHOLE, *words).returncode == 0
    ((config, files, _),) = arrived
    assert (config.batch_size, config.tier2, config.xcache) == (9, ("local:1",), 0.25)
    assert files.output == str(tmp_path / "other")


def test_a_list_is_an_option_given_several_times(arrived: list[Any], tmp_path: Path) -> None:
    content = WHOLE.replace('"local:2"', '["local:1", "ipc:///tmp/w"]')
    assert _run(tmp_path, content).returncode == 0
    assert arrived[0][0].tier2 == ("local:1", "ipc:///tmp/w")


def test_names_may_be_a_list_and_json_a_table(arrived: list[Any], tmp_path: Path) -> None:
    content = WHOLE.replace("/out", "/out.parquet") + 'prompt-column = "p"\n'
    content += 'keep_columns = ["t", " x"]\nbody = {{top_p = 0.9, n = 2}}\n'
    assert _run(tmp_path, content).returncode == 0
    options = arrived[0][1].resolve(restart=False)
    assert options.keep_columns == ("t", "x")
    assert options.table.body == {"top_p": 0.9, "n": 2}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("bach_size = 7", "has no option 'bach_size' to set; did you mean batch_size?"),
        ("flavour = 7", "has no option 'flavour' to set; see `glinthawk run --help`"),
        ("config = 'x'", "has no option 'config'"),
        ("quiet = 'yes'", "quiet must be true or false, not 'yes'"),
        ("tier2 = [1]", "tier2 must be text in quotes, or a list of that, not [1]"),
        ("batch_size = true", "batch_size must be text in quotes or a number, not True"),
        ("[model]\nname = 'demo'", "model must be text in quotes or a number"),
        ("batch_size = ", "run.toml is not TOML"),
        (f"{WHOLE}\nseed = 'x'", "Invalid value for '--seed'"),
        (WHOLE.replace("= 7", "= 0"), "--batch-size must be auto or a whole number"),
    ],
)
def test_what_cannot_be_says_where(
    content: str, says: str, arrived: list[Any], tmp_path: Path
) -> None:
    done = _run(tmp_path, content)
    assert done.returncode == 2
    assert says in " ".join(done.stderr.split())
    assert not arrived


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = call("run", "--config", tmp_path / "none")
    assert done.returncode == 2
    assert "--config: cannot read" in done.stderr
