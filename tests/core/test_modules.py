"""What the modules promise: names, errors as drawn, and what importing costs."""

import ast
import inspect
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import glinthawk
from glinthawk.core import errors

_SOURCE = Path(glinthawk.__file__).parent
_MODULES = {
    ".".join(("glinthawk", *path.relative_to(_SOURCE).with_suffix("").parts)): path
    for path in sorted(_SOURCE.rglob("*.py"))
}


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_MODULES[module].read_text())


def _targets(statement: ast.stmt) -> list[str]:
    """Names that a statement defines."""
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
    return []


def _defined(module: str) -> list[str]:
    return [name for statement in _tree(module).body for name in _targets(statement)]


def _imported(module: str) -> set[str]:
    imports = [node for node in ast.walk(_tree(module)) if isinstance(node, ast.ImportFrom)]
    return {alias.name for node in imports for alias in node.names}


def _all(module: str) -> list[str] | None:
    for statement in _tree(module).body:
        if isinstance(statement, ast.Assign) and _targets(statement) == ["__all__"]:
            names: list[str] = ast.literal_eval(statement.value)
            return names
    return None


_LISTS = [module for module in _MODULES if _all(module) is not None]


def _isort(name: str) -> tuple[int, list[str | int]]:
    """CONSTANTS, then Classes, then functions; numbers in names by their value."""
    kind = 0 if name.isupper() else 1 if name[:1].isupper() else 2
    return kind, [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def test_every_module_that_defines_something_says_what_it_offers() -> None:
    public = {m for m in _MODULES if any(not name.startswith("_") for name in _defined(m))}
    assert public <= set(_LISTS)


def test_no_two_public_classes_have_one_name() -> None:
    names = [
        statement.name
        for module in _MODULES
        for statement in _tree(module).body
        if isinstance(statement, ast.ClassDef) and not statement.name.startswith("_")
    ]
    assert {name for name in names if names.count(name) > 1} == set()


@pytest.mark.parametrize("module", _LISTS)
def test_all_is_sorted_and_says_nothing_twice(module: str) -> None:
    names = _all(module) or []
    assert names == sorted(names, key=_isort)
    assert len(names) == len(set(names))


@pytest.mark.parametrize("module", _LISTS)
def test_all_holds_only_what_is_there(module: str) -> None:
    assert set(_all(module) or []) <= set(_defined(module)) | _imported(module)


@pytest.mark.parametrize("module", _LISTS)
def test_all_holds_every_public_name(module: str) -> None:
    public = {name for name in _defined(module) if not name.startswith("_")}
    assert public <= set(_all(module) or [])


def test_no_module_takes_a_private_name_of_another() -> None:
    taken = [
        (module, alias.name)
        for module in _MODULES
        for node in ast.walk(_tree(module))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("glinthawk.")
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert not taken


def test_the_package_offers_what_it_lists() -> None:
    for name in glinthawk.__all__:
        assert getattr(glinthawk, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = glinthawk.nothing


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import glinthawk; glinthawk.SamplingParams()", "torch transformers zmq numpy msgspec"),
        ("import glinthawk.ray_data", "ray torch pandas pyarrow"),
        ("import glinthawk.llm.mapping", "pandas polars pyarrow datasets ray lm_eval"),
        ("import glinthawk.scheduler.scheduler", "torch transformers zmq asyncio socket"),
        ("import glinthawk.wire.client_channel", "torch transformers"),
        ("import glinthawk.cli.main", "torch transformers"),
    ],
)
def test_importing_costs_no_more_than_it_must(statement: str, heavy: str) -> None:
    report = f"import sys; {statement}; print(*set({heavy.split()}) & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


# Errors


def _classes() -> dict[str, type]:
    return {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and value.__module__ == errors.__name__
    }


def _drawn() -> dict[str, str]:
    """The docstring's tree: error -> its parent."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"([│├└─ ]+|(?=GlinthawkError$))([A-Z]\w+)", line):
            depth = len(found[1]) // 4
            path = [*path[:depth], found[2]]
            parents[found[2]] = path[depth - 1] if depth else "Exception"
    return parents


def test_the_tree_of_errors_is_as_drawn() -> None:
    classes = {name: kind.__bases__[0].__name__ for name, kind in _classes().items()}
    assert _drawn() == classes
    assert all(len(kind.__bases__) == 1 for kind in _classes().values())


def test_all_errors_are_public_and_explained() -> None:
    assert sorted(_classes()) == sorted(errors.__all__)
    assert all(kind.__doc__ for kind in _classes().values())


@pytest.mark.parametrize("name", sorted(_classes()))
def test_an_error_shows_its_message(name: str) -> None:
    error = _classes()[name]("what to do")
    assert isinstance(error, errors.GlinthawkError)
    assert str(error) == "what to do"


def test_errors_carry_what_their_readers_need() -> None:
    request = errors.RequestError("no", param="prompt", code="too_long")
    assert (request.param, request.code) == ("prompt", "too_long")
    assert errors.RequestError("no").code == "invalid_request"
    assert errors.WorkerLost("gone", home=3).home == 3
    assert errors.WorkerLost("gone").home is None
