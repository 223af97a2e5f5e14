"""Inputs, and an engine that answers without a model: what every test of a whole job needs."""

import hashlib
import json
import random
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

from glinthawk.core.limits import Limits
from glinthawk.core.prompt_scores import PromptScores
from glinthawk.core.sequence import FinishReason, Request, Sequence, TokenLogprobs
from glinthawk.jobs.front import TextProcesses
from glinthawk.jobs.job import Job
from glinthawk.jobs.journal import Journal
from glinthawk.jobs.text import Text
from result_schema import check_result

__all__ = ["FINGERPRINT", "LIMITS", "answer", "line", "results", "run_job", "write_input"]

LIMITS = Limits(max_model_len=64, kv_tokens=1024, vocab_size=320)
FINGERPRINT = {"model": "tiny", "dtype": "float32", "seed": 0}


def line(custom_id: str = "a", /, url: str = "/v1/completions", **body: Any) -> dict[str, Any]:
    """A completion, of three token ids unless said otherwise."""
    if url == "/v1/completions":
        body.setdefault("prompt", [1, 2, 3])
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def write_input(path: Path, lines: list[Any]) -> Path:
    """``lines`` as JSON, one a line; bytes as they are."""
    raw = [item if isinstance(item, bytes) else json.dumps(item).encode() for item in lines]
    path.write_bytes(b"".join(item + b"\n" for item in raw))
    return path


def results(output: Path) -> list[dict[str, Any]]:
    """Result lines in order of input; every one must be whole."""
    raw = output.read_bytes()
    assert raw == b"" or raw.endswith(b"\n")
    found = [check_result(json.loads(item)) for item in raw.splitlines()]
    return sorted(found, key=lambda result: result["id"])


def answer(request: Request) -> Sequence:
    """What the seed says, and nothing else."""
    sequence = Sequence(request)
    if request.params.prompt_logprobs is not None:
        sequence.scores.append(_scores(request))
    for position in range(request.max_tokens):
        key = f"{request.seed} {position}".encode()
        sequence.output.append(hashlib.blake2b(key, digest_size=1).digest()[0])
        if request.params.logprobs is not None:
            sequence.logprobs.append(TokenLogprobs(sequence.output[-1], -1.0, 1, ((0, -0.5),)))
        if sequence.output[-1] in request.stop_ids:
            sequence.finish_reason = FinishReason.STOP
            return sequence
    sequence.finish_reason = FinishReason.LENGTH
    return sequence


def _scores(request: Request) -> PromptScores:
    """A token says how likely it is; token 9 is the likeliest everywhere, then comes token 8."""
    num_top, tokens = request.params.prompt_logprobs or 0, request.prompt[1:]
    return PromptScores(
        num_top,
        array("f", [-token / 8 for token in tokens]).tobytes(),
        array("i", [7] * len(tokens)).tobytes(),
        array("i", [9, 8, 3, 4][:num_top] * len(tokens)).tobytes(),
        array("f", [-0.25, -0.5, -1, -2][:num_top] * len(tokens)).tobytes(),
    )


def run_job(
    source: Path,
    output: Path,
    *,
    on_finish: Callable[[], None] = lambda: None,
    in_flight: int = 7,
    text: Text | None = None,
    limits: Limits = LIMITS,
    processes: TextProcesses | None = None,
    **journal_options: Any,
) -> Job:
    """Answer all that is left, several at a time and in a jumbled order."""
    shuffle = random.Random(0)
    options = {"now": lambda: 1000.0, **journal_options}
    with Journal.open(source, output, FINGERPRINT, **options) as journal:
        journal.settle({"max_model_len": limits.max_model_len})
        job = Job(
            journal,
            text or Text(None),
            limits,
            frozenset({299}),
            seed=0,
            model_name="tiny",
            processes=processes,
        )
        flying: list[Request] = []
        source_of_requests = job.requests()
        more = True
        while more or flying:
            while more and len(flying) < in_flight:
                try:
                    request = next(source_of_requests)
                except StopIteration:
                    more = False
                    break
                if request is None:
                    break
                flying.append(request)
            if flying:
                job.finish(answer(flying.pop(shuffle.randrange(len(flying)))))
                on_finish()
        job.flush()
        return job
