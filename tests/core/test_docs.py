"""What the documents say of the sources is there."""

import ast
import re
from pathlib import Path

import pytest

import glinthawk

_SOURCE = Path(glinthawk.__file__).parent
_ROOT = _SOURCE.parents[1]
_PAGES = [
    _ROOT / "research" / "README.md",
    _ROOT / "README.md",
    _ROOT / "CONTRIBUTING.md",
    *sorted((_ROOT / "docs").glob("*.md")),
]
_FILES = re.compile(r"`([\w./-]+\.py)\b")
_FUNCTIONS = re.compile(r"`([\w/]+\.py): ([\w.]+)`")


def _find(name: str) -> list[Path]:
    """As people name a file: from the root, within the package, or by its last part alone."""
    places = [
        _ROOT / name,
        _SOURCE / name,
        *_SOURCE.rglob(name),
        *(_ROOT / "bench").rglob(name),
        *(_ROOT / "research").rglob(name),
    ]
    return [place for place in dict.fromkeys(places) if place.is_file()]


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(_ROOT)))
def test_files_that_a_page_names_are_there(page: Path) -> None:
    missing = {name for name in _FILES.findall(page.read_text()) if not _find(name)}
    assert not missing


def _defined(tree: ast.Module) -> set[str]:
    """Functions by name, methods with their class before."""
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for owner in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        names |= {f"{owner.name}.{n.name}" for n in owner.body if isinstance(n, ast.FunctionDef)}
    return names


def test_functions_that_the_architecture_names_are_there() -> None:
    named = _FUNCTIONS.findall((_ROOT / "docs" / "architecture.md").read_text())
    assert len(named) >= 10
    for file, function in named:
        assert any(function in _defined(ast.parse(path.read_text())) for path in _find(file))


def test_no_two_files_have_one_name() -> None:
    """So that a file can be spoken of."""
    names = [path.stem for path in _SOURCE.rglob("*.py") if not path.stem.startswith("__")]
    assert {name for name in names if names.count(name) > 1} == set()
