"""What users may import: ``glinthawk.__all__``, which is whole, documented and typed."""

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import glinthawk
from glinthawk.core import errors

_ROOT = Path(glinthawk.__file__).parents[2]
_PAGES = [_ROOT / "README.md", _ROOT / "CONTRIBUTING.md", *sorted((_ROOT / "docs").glob("*.md"))]
#: Those of extras are imported on their own.
_PUBLIC_MODULES = {"glinthawk", "glinthawk.ray_data"}
_CLASSES = [
    thing for name in glinthawk.__all__ if inspect.isclass(thing := getattr(glinthawk, name))
]

_SCRIPT = """
from collections.abc import Sequence

from glinthawk import (
    LLM, CompletionOutput, GlinthawkError, Messages, Prompt, RequestError, RequestOutput, RunStats,
    SamplingParams, Logprob,
)


def answer(prompts: Sequence[Prompt], chat: Messages) -> list[RequestOutput]:
    with LLM("demo", tier2="local:2", worker_kv="1GiB") as llm:
        try:
            outputs = llm.generate(prompts, SamplingParams(temperature=0, logprobs=2))
            outputs += llm.chat(chat, use_tqdm=False)
        except RequestError as error:
            param: str | None = error.param
            raise GlinthawkError(param) from error
        stats: RunStats = llm.stats
        seconds: float = stats.seconds
    return outputs


def likeliest(output: CompletionOutput) -> Logprob | None:
    logprobs: list[dict[int, Logprob]] | None = output.logprobs
    return min(logprobs[0].values(), key=lambda one: one.rank) if logprobs else None
"""
#: Large, and of no concern to who imports glinthawk alone.
_STRICT = """
[mypy]
strict = true
follow_imports = silent
[mypy-torch.*,transformers.*,numpy.*,zmq.*,rich.*,greenlet.*]
follow_imports = skip
"""


def test_every_public_name_is_documented() -> None:
    pages = "".join(page.read_text() for page in _PAGES)
    code = " ".join(re.findall(r"`+[^`]+`+", pages))
    missing = {name for name in glinthawk.__all__ if not re.search(rf"\b{name}\b", code)}
    assert not missing


def _functions(owner: type) -> Iterator[Any]:
    for name, member in vars(owner).items():
        function = member.fget if isinstance(member, property) else member
        if inspect.isfunction(function) and (not name.startswith("_") or name == "__init__"):
            yield function


def _ours(hint: Any) -> Iterator[type]:
    """Classes of this package in an annotation."""
    if inspect.isclass(hint) and hint.__module__.partition(".")[0] == "glinthawk":
        yield hint
    for part in get_args(hint):
        yield from _ours(part)


@pytest.mark.parametrize("owner", _CLASSES, ids=lambda owner: owner.__name__)
def test_what_public_signatures_mention_is_public(owner: type) -> None:
    for annotated in (owner, *_functions(owner)):
        for hint in get_type_hints(annotated).values():
            assert set(_ours(hint)) <= set(_CLASSES)


@pytest.mark.parametrize("owner", _CLASSES, ids=lambda owner: owner.__name__)
def test_errors_that_public_things_raise_are_public(owner: type) -> None:
    said = " ".join(inspect.getdoc(thing) or "" for thing in (owner, *_functions(owner)))
    assert set(re.findall(r"\w+", said)) & set(errors.__all__) <= set(glinthawk.__all__)


def _examples() -> Iterator[str]:
    for page in _PAGES:
        yield from re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    for path in sorted((_ROOT / "examples").glob("*.py")):
        yield path.read_text()
    yield _SCRIPT


def test_examples_import_public_names_alone() -> None:
    imports = [
        node
        for example in _examples()
        for node in ast.walk(ast.parse(example))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("glinthawk")
    ]
    assert len(imports) >= 3
    for node in imports:
        assert node.module in _PUBLIC_MODULES
        public = import_module(node.module).__all__
        assert {alias.name for alias in node.names} <= set(public)


def test_types_are_installed() -> None:
    assert (files("glinthawk") / "py.typed").is_file()


def test_a_users_script_passes_a_strict_check_of_types(tmp_path: Path) -> None:
    script, settings = tmp_path / "script.py", tmp_path / "mypy.ini"
    script.write_text(_SCRIPT)
    settings.write_text(_STRICT.replace("strict = true", f"strict = true\nmypy_path = {_ROOT}/src"))
    command = [sys.executable, "-m", "mypy", "--config-file", settings, script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout
