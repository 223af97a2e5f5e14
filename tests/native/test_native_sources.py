"""The C++ is made of short files and functions, and its includes point down."""

import re
from pathlib import Path

_NATIVE = Path(__file__).parents[2] / "native"
_FILES = {
    path.relative_to(_NATIVE).as_posix(): path
    for path in sorted(_NATIVE.rglob("*"))
    if path.suffix in (".cpp", ".hpp")
}
_SOURCES = [name for name in _FILES if name.startswith("src/")]

#: Folders of src/, each of which includes only of those behind it.
_FLOORS = [
    "bindings",
    "storage",
    "attention",
    "pages",
    "schedule",
    "dense",
    "sampling",
    "quantized",
    "kernels",
    "layout",
    "machine",
]

_LONGEST_FILE, _LONGEST_FUNCTION = 300, 40


def _includes(name: str) -> list[str]:
    """Files of src/ that a file includes."""
    found = re.findall(r'^#include "(.+)"', _FILES[name].read_text(), re.MULTILINE)
    return [f"src/{included}" for included in found if f"src/{included}" in _FILES]


def _code(text: str) -> str:
    """Without comments, strings and lines of the preprocessor; every line stays."""
    text = re.sub(r"^#(.*\\\n)*.*", lambda m: "\n" * m[0].count("\n"), text, flags=re.MULTILINE)
    return re.sub(r"//.*|\"(\\.|[^\"\\\n])*\"|'(\\.|[^'\\\n])'", "", text)


def _functions(text: str) -> list[tuple[str, int]]:
    """Name and lines of each: a block behind a parenthesis that is in no other function."""
    code, found, blocks = _code(text), [], []
    head_from = 0
    for at, letter in enumerate(code):
        if letter == "{":
            head = code[head_from:at]
            is_scope = ")" not in head or re.match(r"\s*(namespace|class|struct|enum)\b", head)
            is_inside = any(is_function for is_function, _, _ in blocks)
            begin = head_from + len(head) - len(head.lstrip())
            blocks.append((not is_scope and not is_inside, begin, head.strip()))
        elif letter == "}":
            is_function, begin, head = blocks.pop()
            if is_function:
                found.append((head.split("(")[0], code.count("\n", begin, at) + 1))
        if letter in "{};":
            head_from = at + 1
    assert not blocks
    return found


def test_no_file_is_longer_than_300_lines() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in _FILES.items()}
    assert {name: n for name, n in lengths.items() if n > _LONGEST_FILE} == {}


def test_no_function_is_longer_than_40_lines() -> None:
    lengths = {
        f"{name}: {function}": lines
        for name, path in _FILES.items()
        for function, lines in _functions(path.read_text())
    }
    assert len(lengths) > 300  # they are found
    assert {name: n for name, n in lengths.items() if n > _LONGEST_FUNCTION} == {}


def test_every_folder_has_its_floor() -> None:
    assert {name.split("/")[1] for name in _SOURCES} == set(_FLOORS)


def test_includes_point_down() -> None:
    def floor(name: str) -> int:
        return _FLOORS.index(name.split("/")[1])

    pairs = [(name, included) for name in _SOURCES for included in _includes(name)]
    assert [(name, below) for name, below in pairs if floor(below) < floor(name)] == []


def test_includes_form_no_circle() -> None:
    """A header and its source are one."""
    left = {name.rpartition(".")[0]: set[str]() for name in _SOURCES}
    for name in _SOURCES:
        unit = name.rpartition(".")[0]
        left[unit] |= {included.rpartition(".")[0] for included in _includes(name)} - {unit}
    while ends := [unit for unit, below in left.items() if not below & left.keys()]:
        for unit in ends:
            del left[unit]
    assert left == {}


def test_every_header_is_included() -> None:
    included = {header for name in _FILES for header in _includes(name)}
    assert {name for name in _SOURCES if name.endswith(".hpp")} == included
