"""Rows are asked as `glinthawk run` asks those of a table, and answered in their order."""

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from glinthawk.core.errors import RequestError, UsageError
from glinthawk.core.lora import adapter_names
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request, Sequence
from glinthawk.files.answer_rows import read_answer
from glinthawk.files.request_maker import RequestMaker
from glinthawk.jobs.lines import LineReader, Refusal, Task
from glinthawk.jobs.results import answer_line, refusal_line
from glinthawk.jobs.task_requests import TaskRequests
from glinthawk.llm.open_model import OpenModel

__all__ = ["AnsweredRow", "NamedRow", "RowAnswers"]

#: Whatever the asker calls a row, and its columns.
NamedRow = tuple[Any, Mapping[str, Any]]
#: What the row was called, and a value for each of ``ANSWER_COLUMNS``.
AnsweredRow = tuple[Any, tuple[Any, ...]]

#: Rows in flight at most, from the first that is not answered on; engines read some 500 ahead.
_WINDOW = 2048


@dataclass(slots=True, eq=False)
class _OpenRow:
    """One in flight; its choices come by their places. ``answer`` is what has come of it."""

    row: Any
    task: Task | None = None
    choices: dict[int, Sequence] = field(default_factory=dict)
    answer: tuple[Any, ...] | None = None


class RowAnswers:
    """``maker`` says what a row is asked. Without ``params``, the model says how tokens are chosen.
    A row that cannot be asked or answered has an error for an answer."""

    def __init__(
        self, model: OpenModel, maker: RequestMaker, params: SamplingParams | None
    ) -> None:
        self._model, self._maker = model, maker
        self._reader = LineReader(
            model.text,
            model.run.limits,
            model.config.model,
            defaults=model.defaults,
            params=params,
            pooler=model.pooler,
            adapters=adapter_names(model.config.lora),
        )
        self._requests = TaskRequests(model.text, model.eos_token_ids, model.config.seed)
        self._in_flight: deque[_OpenRow] = deque()
        self._open: dict[int, tuple[_OpenRow, int]] = {}
        self._num_rows = self._num_requests = 0
        self._is_read = False

    def answer(self, rows: Iterable[NamedRow]) -> Iterator[AnsweredRow]:
        """Of ``rows``, which are read as they are needed; some thousand of them are in memory at
        most. Once."""
        source = iter(rows)
        while not self._is_read:
            # A call ends early where rows wait to be taken that no engine has anything to do with.
            with closing(self._sequences(source)) as sequences:
                for sequence in sequences:
                    self._finish(sequence)
                    yield from self._taken()
            yield from self._taken()

    def _sequences(self, source: Iterator[NamedRow]) -> Generator[Sequence, None, None]:
        engine = self._model.run.engine
        return engine.generate(self._read(source), self._model.text.stop_found)

    def _taken(self) -> Iterator[AnsweredRow]:
        """Those at the front that are answered."""
        while self._in_flight and (answer := self._in_flight[0].answer) is not None:
            yield self._in_flight.popleft().row, answer

    def _read(self, source: Iterator[NamedRow]) -> Iterator[Request | None]:
        while True:
            while len(self._in_flight) >= _WINDOW:
                if not self._open:
                    return
                yield None
            row = next(source, None)
            if row is None:
                self._is_read = True
                return
            yield from self._begin(*row)

    def _begin(self, name: Any, columns: Mapping[str, Any]) -> Iterator[Request]:
        number, self._num_rows = self._num_rows, self._num_rows + 1
        place = _OpenRow(name)
        self._in_flight.append(place)
        task = self._ask(number, columns)
        if isinstance(task, Refusal):
            place.answer = read_answer(refusal_line(task))
            return
        place.task = task
        for index in range(task.num_choices):
            request = self._requests.make(task, index, self._num_requests)
            self._num_requests += 1
            self._open[request.id] = place, index
            yield request

    def _ask(self, number: int, columns: Mapping[str, Any]) -> Task | Refusal:
        try:
            return self._reader.read(number, self._maker.make(number, columns))
        except Exception as error:  # a cell may hold anything, and a template do anything with it
            said = (
                str(error) if isinstance(error, UsageError) else f"the row is no request: {error}"
            )
            return Refusal(number, None, RequestError(said, code="invalid_row"))

    def _finish(self, sequence: Sequence) -> None:
        place, index = self._open.pop(sequence.request.id)
        place.choices[index] = sequence
        task = place.task
        assert task is not None
        try:
            self._model.run.limits.check_answer(sequence)
        except RequestError as error:
            place.answer = read_answer(refusal_line(Refusal(task.line, task.custom_id, error)))
        if place.answer is None and len(place.choices) == task.num_choices:
            choices = [place.choices[number] for number in range(task.num_choices)]
            line = answer_line(task, choices, self._model.text, int(time.time()))
            place.answer = read_answer(line)
            place.choices.clear()
