"""Files of at most 300 lines, functions of at most 40.

A function is counted from ``def`` to its end without its docstring. The signatures of commands and
of GPU kernels are not counted either: they are tables of flags, and of arguments.
"""

import ast
from pathlib import Path

import glinthawk

_SOURCE = Path(glinthawk.__file__).parent
_FILES = {path.relative_to(_SOURCE).as_posix(): path for path in sorted(_SOURCE.rglob("*.py"))}

_LONGEST_FILE, _LONGEST_FUNCTION = 300, 40

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(path: Path) -> list[_Function]:
    tree = ast.parse(path.read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def _is_table(file: str, function: _Function) -> bool:
    """Whether its signature is one."""
    decorators = [ast.unparse(decorator) for decorator in function.decorator_list]
    is_command = file.startswith("cli/") and "Annotated" in ast.unparse(function.args)
    return is_command or "triton.jit" in decorators


def _length(file: str, function: _Function) -> int:
    first, end = function.lineno, function.end_lineno
    assert end is not None
    docstring = function.body[0] if ast.get_docstring(function) else None
    if docstring is not None:
        assert docstring.end_lineno is not None
        end -= docstring.end_lineno - docstring.lineno + 1
    if _is_table(file, function):
        first = function.body[0].lineno
    return end - first + 1


def test_no_file_is_longer_than_300_lines() -> None:
    lengths = {file: len(path.read_text().splitlines()) for file, path in _FILES.items()}
    assert {file: length for file, length in lengths.items() if length > _LONGEST_FILE} == {}


def test_no_function_is_longer_than_40_lines() -> None:
    lengths = {
        f"{file}: {function.name}": _length(file, function)
        for file, path in _FILES.items()
        for function in _functions(path)
    }
    assert {name: length for name, length in lengths.items() if length > _LONGEST_FUNCTION} == {}
