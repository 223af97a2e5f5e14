"""A whole job with an engine that needs no model."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from glinthawk.core.errors import JournalError
from glinthawk.core.limits import Limits
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.seeds import choice_seed
from glinthawk.core.sequence import Request, Sequence
from glinthawk.jobs.job import Job
from glinthawk.jobs.journal import Journal
from glinthawk.jobs.text import Text
from job_files import FINGERPRINT, LIMITS, answer, line, results, run_job, write_input
from result_schema import error_of

_MIXED: list[Any] = [
    line("one"),
    b"",
    b"not json",
    line("two", n=3, return_token_ids=True),
    line("one"),
    {**line("three"), "url": "/v1/classify"},
    line("three"),
    line("long", prompt=[1] * 64),
    line("last", seed=5, ignore_eos=True, max_tokens=3),
]


def _job(journal: Journal, **options: Any) -> Job:
    settings = {"text": Text(None), "eos_token_ids": frozenset({299}), "seed": 0, **options}
    return Job(journal, limits=LIMITS, model_name="tiny", **settings)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_input(tmp_path / "in.jsonl", _MIXED)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def test_every_line_has_one_result(source: Path, output: Path) -> None:
    job = run_job(source, output)
    found = {result["id"][-1]: result for result in results(output)}
    assert sorted(found) == ["0", "2", "3", "4", "5", "6", "7", "8"]
    codes = {number: (error_of(r) or {}).get("code") for number, r in found.items()}
    assert codes == {
        "0": None,
        "2": "invalid_json_line",
        "3": None,
        "4": "duplicate_custom_id",
        "5": "invalid_url",
        "6": "duplicate_custom_id",
        "7": "context_length_exceeded",
        "8": None,
    }
    assert found["2"]["custom_id"] is None
    assert found["4"]["custom_id"] == "one"
    progress = job.progress
    assert (progress.total, progress.answered, progress.failed) == (8, 8, 5)
    assert progress.prompt_tokens == 9
    usage = [r["response"]["body"]["usage"] for r in found.values() if error_of(r) is None]
    assert progress.completion_tokens == sum(each["completion_tokens"] for each in usage)


def test_choices_come_in_order_and_differ(source: Path, output: Path) -> None:
    run_job(source, output)
    choices = results(output)[2]["response"]["body"]["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    assert len({tuple(choice["token_ids"]) for choice in choices}) == 3


def test_answers_do_not_depend_on_company(source: Path, output: Path, tmp_path: Path) -> None:
    run_job(source, output, in_flight=1)
    run_job(source, tmp_path / "other", in_flight=100)
    assert results(output) == results(tmp_path / "other")


def test_a_resumed_job_does_what_is_left(source: Path, output: Path, tmp_path: Path) -> None:
    run_job(source, tmp_path / "whole")
    with Journal.open(source, output, FINGERPRINT, now=lambda: 1000.0) as journal:
        job = _job(journal)
        requests = list(job.requests())
        # One choice of three is not a result.
        job.finish(answer(requests[0]))
        job.finish(answer(requests[2]))
    job = run_job(source, output)
    assert results(output) == results(tmp_path / "whole")
    assert (job.progress.resumed, job.progress.answered) == (6, 8)
    # Nothing is left: a third run changes no byte.
    before = output.read_bytes()
    run_job(source, output)
    assert output.read_bytes() == before


def test_a_grown_input_is_continued(source: Path, output: Path) -> None:
    run_job(source, output)
    with source.open("ab") as file:
        for item in (line("one"), line("new")):
            file.write(json.dumps(item).encode() + b"\n")
    run_job(source, output)
    # The repetition of an id that an earlier run answered is still one.
    codes = [(r["custom_id"], (error_of(r) or {}).get("code")) for r in results(output)]
    assert codes[-2:] == [("one", "duplicate_custom_id"), ("new", None)]


def test_what_is_added_while_it_runs_waits(source: Path, output: Path) -> None:
    with Journal.open(source, output, FINGERPRINT) as journal:
        with source.open("ab") as file:
            file.write(json.dumps(line("new")).encode())
        assert len(list(_job(journal).requests())) == 5
    assert len(_answered(source, output)) == 6


def test_an_input_that_shrinks_while_it_runs_is_an_error(source: Path, output: Path) -> None:
    with Journal.open(source, output, FINGERPRINT) as journal:
        source.write_bytes(source.read_bytes()[:200])
        with pytest.raises(JournalError, match="became shorter"):
            list(_job(journal).requests())


def _answered(source: Path, output: Path) -> list[Request]:
    with Journal.open(source, output, FINGERPRINT) as journal:
        return list(_job(journal).requests())


def test_input_is_read_as_it_is_asked_for(tmp_path: Path, output: Path) -> None:
    source = write_input(tmp_path / "in", [line("a"), b"bad", line("b"), b"bad", line("c")])
    with Journal.open(source, output, FINGERPRINT) as journal:
        requests = _job(journal).requests()
        assert journal.num_done == 0
        next(requests)
        assert journal.num_done == 0
        next(requests)
        assert journal.num_done == 1


def test_windows_files_are_read(tmp_path: Path, output: Path) -> None:
    source = tmp_path / "in"
    raw = [json.dumps(line(name)).encode() for name in "ab"]
    source.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(raw))
    job = run_job(source, output)
    assert (job.progress.total, job.progress.answered, job.progress.failed) == (2, 2, 0)


def test_requests_carry_the_limits(source: Path, output: Path) -> None:
    requests = _answered(source, output)
    assert [request.id for request in requests] == [0, 1, 2, 3, 4]
    assert requests[0].max_tokens == 16
    assert requests[0].eos_token_ids == {299}
    assert requests[-1].eos_token_ids == frozenset()
    own = SamplingParams(seed=5)
    assert requests[-1].seed == choice_seed(0, own, "any name", 0, requests[-1].prompt)


def test_every_choice_has_a_seed_of_its_own(source: Path, output: Path) -> None:
    seeds = [request.seed for request in _answered(source, output)]
    assert len(set(seeds)) == 5
    assert [request.seed for request in _answered(source, output)] == seeds


def test_stop_strings_end_an_answer(text: Text, tmp_path: Path, output: Path) -> None:
    source = write_input(tmp_path / "in", [line("a", prompt="hello", stop=[" sat"])])
    with Journal.open(source, output, FINGERPRINT) as journal:
        job = _job(journal, text=text)
        (request,) = job.requests()
        sequence = Sequence(request)
        found = []
        for token in text.encode("the cat sat")[1:]:
            found.append(job.stop_found(sequence, token))
            sequence.output.append(token)
    assert found == [False] * (len(found) - 1) + [True]


def test_without_stop_strings_nothing_is_decoded(source: Path, output: Path) -> None:
    with Journal.open(source, output, FINGERPRINT) as journal:
        job = _job(journal)
        assert not job.stop_found(Sequence(next(job.requests())), 5)


def test_an_answer_that_outgrows_the_memory_is_its_lines_error(
    tmp_path: Path, output: Path, text: Text
) -> None:
    said = [{"role": "user", "content": "a"}]
    chat = line("open", "/v1/chat/completions", messages=said, n=3, ignore_eos=True)
    source = write_input(tmp_path / "in", [chat, line("next", prompt=[5])])
    limits = Limits(max_model_len=200, kv_tokens=100, vocab_size=320)
    with Journal.open(source, output, FINGERPRINT) as journal:
        job = Job(journal, text, limits, frozenset(), seed=0, model_name="tiny")
        requests = job.requests()
        first, second = next(requests), next(requests)
        job.finish(answer(first))
        # Its other choices end unheard, and the third is not asked for.
        job.finish(answer(second))
        assert next(requests).prompt == (5,)
    (found,) = results(output)
    assert (found["custom_id"], found["error"]["code"]) == ("open", "kv_memory_exceeded")


def test_memory_does_not_grow_with_the_input(tmp_path: Path, output: Path) -> None:
    source = tmp_path / "in"
    prompt = list(range(40))
    with source.open("w") as file:
        for number in range(3000):
            file.write(json.dumps(line(str(number), prompt=prompt, max_tokens=1)) + "\n")
    tracemalloc.start()
    run_job(source, output)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(results(output)) == 3000
    assert peak < 1_500_000
