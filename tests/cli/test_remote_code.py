"""Code that comes with a checkpoint runs for those who say so; nobody is asked at a terminal."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import glinthawk
from commands import PATIENCE_S, call, line, write_lines
from commands import glinthawk as run_command
from families import make_model
from glinthawk import LLM, SamplingParams
from glinthawk.core.errors import ModelError

_CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM

(Path(__file__).parent / "mark").touch()
Path({mark!r}).touch()


class OwnConfig(LlamaConfig):
    model_type = "own_kind"


class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "it-ran"


@pytest.fixture
def checkpoint(tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = make_model(tmp_path, "llama")
    settings = json.loads((folder / "config.json").read_text())
    settings["model_type"] = "own_kind"
    settings["architectures"] = ["OwnModel"]
    settings["auto_map"] = {
        "AutoConfig": "own.OwnConfig",
        "AutoModelForCausalLM": "own.OwnModel",
        "AutoTokenizer": ["own.OwnTokenizer", None],
    }
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "own.py").write_text(_CODE.format(mark=str(mark)))
    return folder


def _arguments(checkpoint: Path, tmp_path: Path) -> list[object]:
    source = write_lines(tmp_path / "in.jsonl", [line("a", prompt=[5, 6], max_tokens=2)])
    return ["-m", checkpoint, "-i", source, "-o", tmp_path / "out.jsonl", "--tier1-kv", "1MiB"]


def test_it_does_not_run_unasked_and_nobody_is_asked(
    checkpoint: Path, mark: Path, tmp_path: Path
) -> None:
    for quiet in ([], ["--quiet"]):
        command = ["run", *_arguments(checkpoint, tmp_path), *quiet]
        done = subprocess.run(
            [sys.executable, "-m", "glinthawk", *map(str, command)],
            input="y\ny\ny\n",
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            env=dict(os.environ),
        )
        assert done.returncode == 2
        assert "--trust-remote-code" in done.stderr
        assert "[y/N]" not in done.stdout + done.stderr
    assert not mark.exists()


def test_neither_do_plans_profiles_and_python(checkpoint: Path, mark: Path, tmp_path: Path) -> None:
    commands: list[list[object]] = [
        ["plan", "-m", checkpoint, "--tier1", "T4", "--workload", "16:8"],
        ["profile", "-m", checkpoint, "-o", tmp_path / "profile.json", "--quick"],
    ]
    for command in commands:
        done = call(*command)
        assert done.returncode == 2
        assert "--trust-remote-code" in done.stderr
    with pytest.raises(ModelError, match="trust_remote_code=True"):
        LLM(str(checkpoint), tier1_kv="1MiB")
    assert not mark.exists()


def test_it_runs_for_those_who_say_so(checkpoint: Path, mark: Path, tmp_path: Path) -> None:
    done = run_command("run", *_arguments(checkpoint, tmp_path), "--trust-remote-code")
    assert done.returncode == 0, done.stderr
    assert mark.exists()


def test_every_call_of_transformers_says_it() -> None:
    """Where a class is chosen by what stands in a checkpoint."""
    silent = []
    for path in sorted(Path(glinthawk.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            chosen = ast.unparse(node.func.value)
            if node.func.attr not in ("from_pretrained", "from_config"):
                continue
            said = {keyword.arg for keyword in node.keywords}
            if "trust_remote_code" not in said and chosen != "GenerationConfig":
                silent.append(f"{path.name}:{node.lineno}")
    assert not silent


def test_the_same_answers_as_without_code(checkpoint: Path, tmp_path: Path) -> None:
    params = SamplingParams(temperature=0, max_tokens=6)
    prompt = {"prompt_token_ids": [5, 6, 7]}
    plain = make_model(tmp_path / "plain", "llama")
    answers = []
    for model, trust in ((str(plain), False), (str(checkpoint), True)):
        with LLM(model, tier1_kv="1MiB", trust_remote_code=trust) as llm:
            answers.append(llm.generate(prompt, params, use_tqdm=False)[0].outputs[0].token_ids)
    assert answers[0] == answers[1]
