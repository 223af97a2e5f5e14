"""Data frames, of pandas and of polars, and columns of NumPy's."""

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

from glinthawk.llm.output_columns import OUTPUT_COLUMNS, Answers, to_columns
from glinthawk.llm.row_answers import NamedRow

__all__ = ["NumpyColumns", "PandasFrame", "PolarsFrame"]


class PandasFrame:
    """The index stays as it is."""

    def __init__(self, data: Any) -> None:
        self._data = data
        self.columns: tuple[str, ...] | None = tuple(map(str, data.columns))
        self.size: int | None = len(data)

    def rows(self, columns: Sequence[str] | None) -> Iterator[NamedRow]:
        names = [name for name in self._data.columns if columns is None or name in columns]
        values = zip(*(self._data[name] for name in names), strict=True)
        for row in values if names else ((),) * len(self._data):
            yield None, {str(name): _known(one) for name, one in zip(names, row, strict=True)}

    def collect(self, answers: Answers) -> Any:
        pandas = import_module("pandas")
        kinds = {"string": "string", "int64": "Int64"}
        beside = {
            name: pandas.array(values, dtype=kinds[OUTPUT_COLUMNS[name]])
            for name, values in to_columns(answers()).items()
        }
        return self._data.assign(**beside)


def _known(value: Any) -> Any:
    """None for what pandas has in place of a missing value."""
    if hasattr(value, "tolist"):
        value = value.tolist()  # of NumPy's
    if type(value).__name__ in {"NAType", "NaTType"}:
        return None
    return None if isinstance(value, float) and value != value else value


class NumpyColumns:
    """A dictionary of arrays by name, all of one length: a batch of Ray Data's."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data
        self.columns: tuple[str, ...] | None = tuple(data)
        self.size: int | None = len(next(iter(data.values()))) if data else 0

    def rows(self, columns: Sequence[str] | None) -> Iterator[NamedRow]:
        names = [name for name in self._data if columns is None or name in columns]
        for row in zip(*(self._data[name] for name in names), strict=True):
            yield None, {name: _known(one) for name, one in zip(names, row, strict=True)}

    def collect(self, answers: Answers) -> Any:
        numpy = import_module("numpy")
        beside = to_columns(answers())
        return {**self._data, **{name: numpy.array(v, dtype=object) for name, v in beside.items()}}


class PolarsFrame:
    """Of polars' own types."""

    def __init__(self, data: Any) -> None:
        self._data = data
        self.columns: tuple[str, ...] | None = tuple(data.columns)
        self.size: int | None = len(data)

    def rows(self, columns: Sequence[str] | None) -> Iterator[NamedRow]:
        chosen = self._data if columns is None else self._data.select(list(columns))
        if not chosen.width:
            return ((None, {}) for _ in range(len(self._data)))
        return ((None, row) for row in chosen.iter_rows(named=True))

    def collect(self, answers: Answers) -> Any:
        polars = import_module("polars")
        kinds = {"string": polars.String, "int64": polars.Int64}
        beside = to_columns(answers())
        return self._data.hstack(
            [polars.Series(n, v, dtype=kinds[OUTPUT_COLUMNS[n]]) for n, v in beside.items()]
        )
