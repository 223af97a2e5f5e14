"""What `LLM.map` puts beside a row's own columns, and the forms of data that it can do so with."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from glinthawk.files.answer_rows import ANSWER_COLUMNS
from glinthawk.files.answer_table import answer_batch
from glinthawk.files.extras import load_extra
from glinthawk.llm.row_answers import AnsweredRow, NamedRow

__all__ = ["OUTPUT_COLUMNS", "Answers", "DataKind", "answers_schema", "to_batch", "to_columns"]

#: The answers' columns, but for the custom_id, and what chats and completions never have.
OUTPUT_COLUMNS = {
    name: kind for name, kind in ANSWER_COLUMNS.items() if name not in ("custom_id", "embedding")
}
#: Begins to answer all rows.
Answers = Callable[[], Iterator[AnsweredRow]]


class DataKind(Protocol):
    """Some data. ``columns`` are None where rows alone say which there are. ``size`` is None where
    rows are answered as they are taken, else their number."""

    columns: tuple[str, ...] | None
    size: int | None

    def rows(self, columns: Sequence[str] | None) -> Iterator[NamedRow]:
        """Each with at least these columns; all of them if None."""
        ...

    def collect(self, answers: Answers) -> Any:
        """The same kind of data, with ``OUTPUT_COLUMNS`` behind its own."""
        ...


def to_columns(answers: Iterable[AnsweredRow]) -> dict[str, list[Any]]:
    """By their names."""
    values = [answer for _, answer in answers]
    columns = zip(*values, strict=True) if values else [()] * len(ANSWER_COLUMNS)
    named = dict(zip(ANSWER_COLUMNS, map(list, columns), strict=True))
    return {name: named[name] for name in OUTPUT_COLUMNS}


def answers_schema() -> Any:
    """Arrow's."""
    return load_extra("pyarrow", "Arrow").schema(list(OUTPUT_COLUMNS.items()))


def to_batch(answers: Iterable[AnsweredRow]) -> Any:
    """Arrow's record batch."""
    columns = to_columns(answers)
    rows = list(zip(*columns.values(), strict=True))
    return answer_batch(rows, answers_schema())
