"""A job: an input file, its journal, and the answers on their way between them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from glinthawk.core.errors import RequestError
from glinthawk.core.limits import Limits
from glinthawk.core.sequence import Request, Sequence
from glinthawk.jobs.front import Front, TextProcesses
from glinthawk.jobs.incoming import read_tasks
from glinthawk.jobs.journal import Journal
from glinthawk.jobs.line_rules import LineRules
from glinthawk.jobs.lines import Refusal, Task
from glinthawk.jobs.outgoing import Outgoing
from glinthawk.jobs.results import refusal_line
from glinthawk.jobs.task_requests import TaskRequests
from glinthawk.jobs.text import Text
from glinthawk.jobs.text_work import TextRules
from glinthawk.jobs.unanswered import unanswered_lines
from glinthawk.tokens.pooler import Pooler

__all__ = ["Job", "Progress"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Lines answered so far, ``failed`` of them with an error, ``resumed`` of them by earlier runs.

    Tokens are those of this run's answers.
    """

    total: int
    answered: int
    failed: int
    resumed: int
    prompt_tokens: int
    completion_tokens: int


@dataclass(slots=True, eq=False)
class _OpenLine:
    """A task in flight and its choices that have finished, by index."""

    task: Task
    choices: dict[int, Sequence] = field(default_factory=dict)
    refused: bool = False


class Job:
    """Requests out, finished sequences in. Memory grows with what is in flight, and by 12 bytes for
    each line of the input (``SeenIds``). ``processes`` do the text work beside it, if given;
    ``adapters`` are the names of LoRA adapters.

    >>> # with Journal.open(...) as journal:
    >>> #     job = Job(journal, text, limits, eos_token_ids, seed=0, model_name="demo")
    >>> #     for sequence in engine.generate(job.requests(), job.stop_found):
    >>> #         job.finish(sequence)
    >>> #     job.flush()
    """

    def __init__(
        self,
        journal: Journal,
        text: Text,
        limits: Limits,
        eos_token_ids: frozenset[int],
        *,
        seed: int,
        model_name: str,
        rules: LineRules | None = None,
        defaults: Mapping[str, Any] | None = None,
        processes: TextProcesses | None = None,
        pooler: Pooler | None = None,
        adapters: tuple[str, ...] = (),
    ) -> None:
        self._journal = journal
        self._text = text
        self._limits = limits
        text_rules = TextRules(
            limits,
            model_name,
            journal.created,
            rules or LineRules(),
            defaults or {},
            pooler or Pooler(),
            adapters,
        )
        self._front = Front(text, text_rules, processes)
        self._outgoing = Outgoing(self._front, self._write)
        self._requests = TaskRequests(text, eos_token_ids, seed)
        self._open: dict[int, tuple[_OpenLine, int]] = {}
        self._num_requests = 0
        self._prompt_tokens = 0
        self._completion_tokens = 0

    @property
    def progress(self) -> Progress:
        journal = self._journal
        return Progress(
            total=journal.survey.num_requests,
            answered=journal.num_done,
            failed=journal.num_failed,
            resumed=journal.num_resumed,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
        )

    def requests(self) -> Iterator[Request | None]:
        """Requests of the lines without a result, read as they are asked for.

        A line that cannot be answered gets its error here, and the next one is read. None: there is
        none at hand while others are being answered; ask again later.
        """
        lines = unanswered_lines(self._journal, self._refuse_line)
        for task in read_tasks(self._front, lines, lambda: bool(self._open)):
            if task is None:
                yield None
                continue
            if isinstance(task, Refusal):
                self._refuse_line(task)
                continue
            open_line = _OpenLine(task)
            for index in range(task.num_choices):
                if open_line.refused:
                    break
                yield self._request(open_line, index)

    def stop_found(self, sequence: Sequence, token: int) -> bool:
        """Whether the text of ``sequence`` with ``token`` after it contains a stop string."""
        return self._text.stop_found(sequence, token)

    def finish(self, sequence: Sequence) -> None:
        """Take in a finished sequence; the line's result follows when all its choices are there."""
        open_line, index = self._open.pop(sequence.request.id)
        task = open_line.task
        try:
            self._limits.check_answer(sequence)
        except RequestError as error:
            self._refuse(open_line, error)
        open_line.choices[index] = sequence
        if open_line.refused or len(open_line.choices) < task.num_choices:
            return
        choices = [open_line.choices[i] for i in range(task.num_choices)]
        self._prompt_tokens += sum(len(prompt.ids) for prompt in task.prompts)
        self._completion_tokens += sum(len(choice.output) for choice in choices)
        self._outgoing.add((task, choices))

    def _refuse(self, open_line: _OpenLine, error: RequestError) -> None:
        """Answer a line with an error after all; its other choices are dropped."""
        if not open_line.refused:
            open_line.refused = True
            self._refuse_line(Refusal(open_line.task.line, open_line.task.custom_id, error))

    def tick(self) -> None:
        """Let results that have waited long enough go to disk; call it often."""
        self._outgoing.collect()
        self._journal.tick()

    def flush(self) -> None:
        """Put the result of every line that is finished on disk."""
        self._outgoing.finish()
        self._journal.flush()

    def _request(self, open_line: _OpenLine, index: int) -> Request:
        request = self._requests.make(open_line.task, index, self._num_requests)
        self._open[request.id] = (open_line, index)
        self._num_requests += 1
        return request

    def _write(self, line: int, result: bytes) -> None:
        self._journal.append(line, result, failed=False)

    def _refuse_line(self, refusal: Refusal) -> None:
        self._journal.append(refusal.line, refusal_line(refusal), failed=True)
