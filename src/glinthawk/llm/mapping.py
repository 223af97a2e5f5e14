"""``LLM.map``: answers beside the rows of whatever data people have."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from glinthawk.core.errors import UsageError
from glinthawk.core.sampling import SamplingParams
from glinthawk.files.request_maker import RequestMaker, TableOptions
from glinthawk.llm.arrow_data import ArrowReader, ArrowTable
from glinthawk.llm.dataset_data import IterableRows, WholeDataset
from glinthawk.llm.frame_data import NumpyColumns, PandasFrame, PolarsFrame
from glinthawk.llm.open_model import OpenModel
from glinthawk.llm.output_columns import OUTPUT_COLUMNS, Answers, DataKind, to_columns
from glinthawk.llm.row_answers import AnsweredRow, NamedRow, RowAnswers
from glinthawk.telemetry.progress import make_meter

__all__ = ["map_data"]

#: By the library's name and the class's: none is imported to look.
_KINDS: dict[tuple[str, str], Callable[[Any], DataKind]] = {
    ("pyarrow", "Table"): ArrowTable,
    ("pyarrow", "RecordBatchReader"): ArrowReader,
    ("datasets", "Dataset"): WholeDataset,
    ("datasets", "IterableDataset"): IterableRows,
    ("pandas", "DataFrame"): PandasFrame,
    ("polars", "DataFrame"): PolarsFrame,
}
#: Fields of a body that say how tokens are chosen, beside those that have a parameter's name.
_CHOOSING = {"max_completion_tokens", "response_format", "top_logprobs"}


class _Rows:
    """Dictionaries, in a list or as they come."""

    columns: tuple[str, ...] | None = None

    def __init__(self, data: Iterable[Mapping[str, Any]]) -> None:
        self._data = data
        self.size = len(data) if isinstance(data, list) else None

    def rows(self, columns: Sequence[str] | None) -> Iterator[NamedRow]:
        return ((row, row) for row in self._data)

    def collect(self, answers: Answers) -> Any:
        rows = ({**row, **_beside((row, answer))} for row, answer in answers())
        return rows if self.size is None else list(rows)


def _beside(one: AnsweredRow) -> dict[str, Any]:
    return {name: values[0] for name, values in to_columns([one]).items()}


def map_data(
    model: OpenModel,
    data: Any,
    options: TableOptions,
    params: SamplingParams | None,
    *,
    is_quiet: bool,
) -> Any:
    """Raises UsageError for data that cannot be read, and for columns that are not there, or there
    already."""
    _check_once(options, params)
    kind, maker = _find_kind(data), RequestMaker(options)
    needed = None if maker.columns is None else sorted(maker.columns)
    if kind.columns is not None:
        _check_columns(maker, kind.columns)
        # Without any of the columns, one says how many rows there are.
        there = [name for name in needed or () if name in kind.columns]
        needed = needed if needed is None else there or list(kind.columns[:1])
    elif kind.size is not None:  # all rows are at hand
        deque(_checked(maker, kind.rows(None)), maxlen=0)

    def answers() -> Iterator[AnsweredRow]:
        rows = kind.rows(needed)
        rows = rows if kind.columns is not None else _checked(maker, rows)
        answered = RowAnswers(model, maker, params).answer(rows)
        return answered if kind.size is None else _shown(answered, kind.size, is_quiet)

    return kind.collect(answers)


def _check_once(options: TableOptions, params: SamplingParams | None) -> None:
    if not options.is_given:
        raise UsageError("say what a row is asked: prompt_column, messages_column or template")
    known = {one.name for one in fields(SamplingParams)} | _CHOOSING
    if params is not None and (twice := sorted(known & options.body.keys())):
        raise UsageError(
            f"sampling_params say how tokens are chosen, so body cannot say {twice[0]}; say it in "
            "one of them"
        )


def _find_kind(data: Any) -> DataKind:
    for one in type(data).__mro__:
        found = _KINDS.get((one.__module__.partition(".")[0], one.__name__))
        if found is not None:
            return found(data)
    if isinstance(data, dict) and all(hasattr(one, "dtype") for one in data.values()):
        return NumpyColumns(data)
    if isinstance(data, str | bytes | Mapping) or not isinstance(data, Iterable):
        raise UsageError(
            f"rows cannot be read from a {type(data).__name__}; give a dataset, a data frame, an "
            "Arrow table or reader, or dictionaries"
        )
    return _Rows(data)


def _check_columns(maker: RequestMaker, names: tuple[str, ...]) -> None:
    maker.check_columns(names, "the data")
    _check_free(names)


def _check_free(names: Iterable[str]) -> None:
    """No column is overwritten."""
    taken = [name for name in names if name in OUTPUT_COLUMNS]
    if taken:
        raise UsageError(f"the data has a column {taken[0]} already; rename it")


def _checked(maker: RequestMaker, rows: Iterator[NamedRow]) -> Iterator[NamedRow]:
    """The first row says which columns all should have; any may have one that answers have, too."""
    for number, (name, columns) in enumerate(rows):
        if not number:
            maker.check_columns(tuple(columns), "the data")
        _check_free(columns)
        yield name, columns


def _shown(answers: Iterator[AnsweredRow], size: int, is_quiet: bool) -> Iterator[AnsweredRow]:
    """With progress, of all of them."""
    tokens = 0
    with make_meter(quiet=is_quiet) as meter:
        for count, (row, answer) in enumerate(answers, start=1):
            yield row, answer
            tokens += _beside((row, answer))["completion_tokens"] or 0
            meter.update(count, size, tokens)
