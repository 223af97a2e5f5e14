"""Datasets of Hugging Face's: those in Arrow files, and those that come row by row."""

from collections.abc import Iterator, Sequence
from typing import Any

from glinthawk.files.extras import load_extra
from glinthawk.llm.output_columns import Answers, answers_schema, to_batch, to_columns
from glinthawk.llm.row_answers import NamedRow

__all__ = ["IterableRows", "WholeDataset"]


class WholeDataset:
    """A ``Dataset``; the answers are in memory."""

    def __init__(self, data: Any) -> None:
        self._data = data
        self.columns: tuple[str, ...] | None = tuple(data.column_names)
        self.size: int | None = len(data)

    def rows(self, columns: Sequence[str] | None) -> Iterator[NamedRow]:
        chosen = self._data if columns is None else self._data.select_columns(list(columns))
        return ((None, row) for row in chosen.with_format(None))

    def collect(self, answers: Answers) -> Any:
        library, arrow = load_extra("datasets", "a dataset"), load_extra("pyarrow", "Arrow")
        beside = library.Dataset(arrow.Table.from_batches([to_batch(answers())]))
        return library.concatenate_datasets([self._data, beside], axis=1)


class IterableRows:
    """An ``IterableDataset``; answered anew each time it is iterated over."""

    def __init__(self, data: Any) -> None:
        self._data = data
        names = data.column_names
        self.columns: tuple[str, ...] | None = None if names is None else tuple(names)
        self.size: int | None = None

    def rows(self, columns: Sequence[str] | None) -> Iterator[NamedRow]:
        return ((row, row) for row in self._data)

    def collect(self, answers: Answers) -> Any:
        library = load_extra("datasets", "a dataset")
        # `from_generator` asks for a function that can be pickled, which no open model can.
        iterable = load_extra("datasets.iterable_dataset", "a dataset")
        examples = iterable.ExamplesIterable(lambda: enumerate(_rows(answers)), {})
        features = self._data.features and library.Features(
            {**self._data.features, **library.Features.from_arrow_schema(answers_schema())}
        )
        return library.IterableDataset(examples, info=library.DatasetInfo(features=features))


def _rows(answers: Answers) -> Iterator[dict[str, Any]]:
    for one in answers():
        beside = {name: values[0] for name, values in to_columns([one]).items()}
        yield {**one[0], **beside}
