"""What a person sees of a run, from its start to its end."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from commands import call, line, results, write_lines
from glinthawk.jobs.record import record_path
from terminal import run_in_terminal

HEAVY = ("torch", "transformers", "numpy", "zmq", "huggingface_hub")
LONG = {"prompt": [5, 6], "max_tokens": 400, "ignore_eos": True}
BAR = "answering"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Four lines, two of which cannot be answered, and an output."""
    lines = [
        line("a", prompt=[5, 6], max_tokens=2),
        line("b", prompt=[5, 6], temprature=1),
        line("c", prompt=[5, 7], max_tokens=2),
        line("d", prompt=[5] * 3000),
    ]
    return write_lines(tmp_path / "in", lines), tmp_path / "out"


def _run(source: Path, output: Path, *more: object) -> subprocess.CompletedProcess[str]:
    return call("run", "-m", "demo", "-i", source, "-o", output, *more)


def test_the_end_says_why_lines_failed(files: tuple[Path, Path], tmp_path: Path) -> None:
    done = _run(*files, "--errors", tmp_path / "errors")
    assert done.returncode == 1
    said = done.stderr.splitlines()
    start = said.index(f"4 results, 2 of them errors (--retry-errors runs those again): {files[1]}")
    assert said[start + 1] == "  line 2: temprature is not supported; did you mean temperature?"
    assert said[start + 2].startswith("  line 4: the prompt has 3000 tokens, which leaves no room")
    assert said[start + 3] == f"those lines: {tmp_path / 'errors'}"


def test_failed_lines_are_an_input_again(files: tuple[Path, Path], tmp_path: Path) -> None:
    source, output = files
    errors = tmp_path / "errors"
    assert _run(source, output, "--errors", errors).returncode == 1
    lines = source.read_text().splitlines(keepends=True)
    assert errors.read_text() == lines[1] + lines[3]
    errors.write_text(errors.read_text().replace("temprature", "temperature"))
    assert _run(errors, tmp_path / "again", "--errors", tmp_path / "left").returncode == 1
    assert (tmp_path / "left").read_text() == lines[3]
    asked_later = _run(source, output, "--errors", tmp_path / "later")
    assert asked_later.returncode == 1
    assert (tmp_path / "later").read_text() == lines[1] + lines[3]


def test_a_job_without_failures_has_an_empty_file_of_them(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in", [line("a", prompt=[5], max_tokens=2)])
    (tmp_path / "errors").write_text("of another run\n")
    assert _run(source, tmp_path / "out", "--errors", tmp_path / "errors").returncode == 0
    assert (tmp_path / "errors").read_text() == ""


def test_an_output_that_nobody_can_read_again_has_its_failures_told(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    done = _run(files[0], Path("/dev/null"), "--errors", tmp_path / "errors")
    assert "did you mean temperature?" in done.stderr
    lines = files[0].read_text().splitlines(keepends=True)
    assert (tmp_path / "errors").read_text() == lines[1] + lines[3]


def test_a_finished_job_imports_nothing_to_say_so(files: tuple[Path, Path]) -> None:
    _run(*files)
    words = ["run", "-m", "demo", "-i", *map(str, files[:1]), "-o", str(files[1])]
    program = (
        "import json, sys\n"
        "from glinthawk.cli.main import app\n"
        f"try: app({words!r})\n"
        "except SystemExit: pass\n"
        f"print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "every line has its result already, 2 of them errors" in done.stderr
    assert "did you mean temperature?" in done.stderr
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("-m nowhere/at-all", "it is not on this machine, and "),
        ("-m demo --max-model-len 2000", "too long for demo"),
        ("-m demo --tier2 ipc:///nowhere/at/all --worker-timeout 0.1", "/nowhere/at/all"),
    ],
)
def test_a_start_that_fails_says_one_thing_and_leaves_nothing(
    words: str, says: str, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    done = call("run", "-i", files[0], "-o", files[1], *words.split())
    assert done.returncode == 2
    *_, error = done.stderr.splitlines()
    assert error.startswith("glinthawk: ")
    assert says in error
    assert "Retry" not in done.stderr
    assert not files[1].exists()
    assert not record_path(files[1]).exists()


def test_a_terminal_shows_one_bar(files: tuple[Path, Path]) -> None:
    status, screen, said = run_in_terminal("run", "-m", "demo", "-i", files[0], "-o", files[1])
    assert status == 1
    assert "Loading weights" not in said
    assert screen[0] == "loading demo"
    assert [number for number, row in enumerate(screen) if BAR in row] == [1]
    assert "4/4" in screen[1]
    assert "left" not in screen[1]
    assert "  line 2: temprature is not supported; did you mean temperature?" in screen
    assert all(len(row) <= 80 for row in screen)


def test_ctrl_c_leaves_one_bar_too(tmp_path: Path) -> None:
    lines = [line(str(number), **LONG) for number in range(40)]
    source, output = write_lines(tmp_path / "in", lines), tmp_path / "out"
    sent: list[int] = []

    def interrupt(said: str, process: subprocess.Popen[bytes]) -> None:
        if not sent and " left" in said:
            sent.append(1)
            process.send_signal(signal.SIGINT)

    words = ("run", "-m", "demo", "-i", source, "-o", output, "--batch-size", 4)
    status, screen, _ = run_in_terminal(*words, watch=interrupt)
    assert status == 130
    assert len([row for row in screen if BAR in row]) == 1
    assert screen[1] == "finishing the answers that have begun; Ctrl-C again stops at once"
    assert BAR in screen[2]
    assert "run the same command again to resume" in screen
    assert 0 < len(results(output)) < 40
