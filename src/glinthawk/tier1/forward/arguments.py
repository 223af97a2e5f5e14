"""Which of a module's arguments have a row for each token, whatever they are called.

Two calls with unlike numbers of tokens tell: where the shape of a tensor differs, its rows are.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from glinthawk.core.errors import UnsupportedModel
from glinthawk.tier1.forward.cut import Arguments

__all__ = ["RowArguments"]

#: Indices and names that lead from (args, kwargs) to a value.
_Path = tuple[int | str, ...]


class _Rows(NamedTuple):
    path: _Path
    dim: int


class RowArguments:
    """The arguments of one module with a row for each token; the others stay as they were."""

    def __init__(self, few: Arguments, many: Arguments) -> None:
        """Of calls with fewer and with more tokens. Raises UnsupportedModel where they cannot be
        compared."""
        self._template = many
        pairs = zip(_tensors(few), _tensors(many), strict=False)
        self._rows = [found for pair in pairs if (found := _find_rows(*pair))]

    def find(self, arguments: Arguments) -> list[torch.Tensor]:
        """Each of them, as it was given."""
        return [_follow(arguments, rows.path) for rows in self._rows]

    def pick(self, arguments: Arguments) -> list[torch.Tensor]:
        """Each of them as (T, ...)."""
        dims = [rows.dim for rows in self._rows]
        pairs = zip(self.find(arguments), dims, strict=True)
        return [tensor.movedim(dim, 0) for tensor, dim in pairs]

    def place(self, tensors: Sequence[torch.Tensor]) -> Arguments:
        """Arguments for the tokens that the ``tensors`` (T, ...) are rows of."""
        placed = {
            rows.path: tensor.movedim(0, rows.dim)
            for rows, tensor in zip(self._rows, tensors, strict=True)
        }
        args, kwargs = _replace(self._template, placed, ())
        return args, kwargs


def _tensors(value: Any, path: _Path = ()) -> Iterator[tuple[_Path, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _tensors(item, (*path, name))
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from _tensors(item, (*path, index))


def _find_rows(few: tuple[_Path, torch.Tensor], many: tuple[_Path, torch.Tensor]) -> _Rows | None:
    """None: a tensor that is the same for any tokens."""
    path, shapes = few[0], (few[1].shape, many[1].shape)
    differing = [dim for dim, sizes in enumerate(zip(*shapes, strict=False)) if len({*sizes}) > 1]
    if path != many[0] or len(shapes[0]) != len(shapes[1]) or len(differing) > 1:
        raise UnsupportedModel(f"its attention is given {path[-1]!r}, which has no row for a token")
    return _Rows(path, differing[0]) if differing else None


def _follow(value: Any, path: _Path) -> torch.Tensor:
    for step in path:
        value = value[step]
    tensor: torch.Tensor = value
    return tensor


def _replace(value: Any, placed: dict[_Path, torch.Tensor], path: _Path) -> Any:
    if path in placed:
        return placed[path]
    if isinstance(value, dict):
        return {name: _replace(item, placed, (*path, name)) for name, item in value.items()}
    if type(value) in (tuple, list):
        items = (_replace(item, placed, (*path, index)) for index, item in enumerate(value))
        return type(value)(items)
    return value
