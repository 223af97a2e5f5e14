"""Text work beside the run: the same tasks and results, whatever becomes of those who do it."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glinthawk.core.seeds import choice_seed
from glinthawk.core.sequence import Request
from glinthawk.jobs.front import Front, TextProcesses, choose_processes
from glinthawk.jobs.incoming import read_tasks
from glinthawk.jobs.lines import Refusal, Task
from glinthawk.jobs.outgoing import Outgoing
from glinthawk.jobs.text import Text
from glinthawk.jobs.text_work import Answered, TextRules, Work, work_on
from job_files import LIMITS, answer, line, results, run_job, write_input

RULES = TextRules(LIMITS, "tiny", 1000)
TEXT = Text(None)


class Fickle:
    """In place of processes: what each parcel meets is said beforehand, and late ones never come
    back."""

    def __init__(self, fates: list[str]) -> None:
        self._fates = fates
        self._do = work_on(TEXT, RULES)
        self.num_alive = 1

    def tell(self, rules: TextRules) -> None:
        assert rules == RULES

    def hand(self, work: Work) -> "Future[list[Task | Refusal | bytes] | None]":
        away: Future[list[Task | Refusal | bytes] | None] = Future()
        match self._fates.pop() if self._fates else "back":
            case "back":
                away.set_result(self._do(work))
            case "lost":
                away.set_result(None)
            case "begun":
                away.set_running_or_notify_cancel()
            case "all dead":
                self.num_alive = 0
        return away


fates = st.lists(st.sampled_from(["back", "lost", "waits", "begun", "all dead"]), max_size=40)


def front_of(meets: list[str]) -> Front:
    return Front(TEXT, RULES, cast(TextProcesses, Fickle(meets)))


def raw_lines(count: int) -> list[tuple[int, bytes]]:
    return [(n, b'{"custom_id":"%d","method":"POST"' % n + tail(n)) for n in range(count)]


def tail(number: int) -> bytes:
    if number % 7 == 3:
        return b"}"
    return b',"url":"/v1/completions","body":{"prompt":[%d],"max_tokens":3}}' % (number % 300)


def plainly(task: Task | Refusal | None) -> object:
    return (task.line, str(task.error)) if isinstance(task, Refusal) else task


@given(st.integers(0, 300), fates, st.booleans())
def test_lines_are_read_in_order_whatever_becomes_of_the_parcels(
    count: int, meets: list[str], is_busy: bool
) -> None:
    lines = raw_lines(count)
    read = list(read_tasks(front_of(meets), iter(lines), lambda: is_busy))
    alone = read_tasks(Front(TEXT, RULES), iter(lines), lambda: False)
    assert [plainly(task) for task in read if task is not None] == list(map(plainly, alone))
    assert is_busy or None not in read


def test_a_bounded_number_of_lines_and_bytes_is_read_ahead() -> None:
    for size, most in ((100, 16 * 32), (1 << 17, 16 * 2), (1 << 20, 16)):
        taken = 0

        def lines(size: int = size) -> Iterator[tuple[int, bytes]]:
            nonlocal taken
            while True:
                taken += 1
                yield taken, b" " * size

        next(read_tasks(front_of([]), lines(), lambda: False))
        assert taken == most


@given(st.lists(st.tuples(st.integers(1, 100), st.booleans()), max_size=30), fates)
def test_every_answer_is_written_once_whatever_becomes_of_the_parcels(
    lengths: list[tuple[int, bool]], meets: list[str]
) -> None:
    answers = [answered(number, *shape) for number, shape in enumerate(lengths)]
    written: list[tuple[int, bytes]] = []
    outgoing = Outgoing(front_of(meets), lambda *result: written.append(result))
    for number, one in enumerate(answers):
        outgoing.add(one)
        if number % 3 == 0:
            outgoing.collect()
        assert number + 1 - len(written) <= 18 * 16
    outgoing.finish()
    alone = work_on(TEXT, RULES)(Work(answers=answers))
    assert sorted(written) == list(enumerate(alone))


def answered(number: int, length: int, has_logprobs: bool) -> Answered:
    asked = b'{"custom_id":"a","method":"POST","url":"/v1/completions","body":{"prompt":[1],'
    asked += b'"max_tokens":%d%s}}' % (length, b',"logprobs":1' if has_logprobs else b"")
    limits = TextRules(LIMITS, "tiny", 1000)
    (task,) = work_on(TEXT, limits)(Work(lines=[(number, asked)]))
    assert isinstance(task, Task)
    (prompt,) = task.prompts
    seed = choice_seed(0, task.params, task.custom_id, 0, prompt.ids)
    return task, [answer(Request(number, prompt.ids, task.params, seed, length))]


@pytest.fixture
def jobs_lines(tmp_path: Path) -> Path:
    """Short and long answers, some with log-probabilities, a repeated id and a broken line."""
    lines: list[object] = [
        line(f"{n}", prompt=f"the cat {n}", max_tokens=1 + n % 40, n=1 + n % 2, logprobs=n % 3)
        for n in range(300)
    ]
    return write_input(tmp_path / "in.jsonl", [*lines, line("7"), b"not JSON", line("last")])


def test_processes_come_to_the_same_results_even_when_they_are_killed(
    jobs_lines: Path, tmp_path: Path, bpe_folder: Path
) -> None:
    text = Text.load(bpe_folder)
    alone, output = tmp_path / "alone.jsonl", tmp_path / "out.jsonl"
    run_job(jobs_lines, alone, text=text)
    for kills in (0, 1, 2):
        output.unlink(missing_ok=True)
        with TextProcesses.begun(2, lambda: Text.load(bpe_folder)) as processes:
            finished = 0

            def kill_now_and_then(processes: TextProcesses = processes, kills: int = kills) -> None:
                nonlocal finished
                finished += 1
                if finished in [100, 200][:kills]:
                    os.kill(processes.pids[finished // 100 - 1], signal.SIGKILL)

            run_job(jobs_lines, output, text=text, processes=processes, on_finish=kill_now_and_then)
        assert results(output) == results(alone)


def test_a_process_that_was_killed_is_told_from_one_that_lives(bpe_folder: Path) -> None:
    work = Work(lines=raw_lines(40))
    with TextProcesses.begun(1, lambda: Text.load(bpe_folder)) as processes:
        processes.tell(RULES)
        done = processes.hand(work).result()
        assert done is not None
        read = [plainly(task) for task in done if not isinstance(task, bytes)]
        assert read == [plainly(task) for task in work_on(Text.load(bpe_folder), RULES)(work)]  # type: ignore[arg-type]
        os.kill(processes.pids[0], signal.SIGKILL)
        assert processes.hand(work).result() is None
        assert processes.num_alive == 0


def test_a_tokenizer_that_cannot_be_loaded_leaves_the_work_here() -> None:
    def fail() -> Text:
        raise ValueError("no tokenizer")

    with TextProcesses.begun(1, fail) as processes:
        front = Front(TEXT, RULES, processes)
        assert len(front.hand(Work(lines=raw_lines(3))).open()) == 3


def test_small_jobs_have_no_processes() -> None:
    assert choose_processes(100) == 0
    assert 0 <= choose_processes(1_000_000) <= 4
