"""Requests of prompts go to the engine as it asks for them, and come back prompt by prompt."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace

from glinthawk.core.sequence import Request, Sequence
from glinthawk.llm.open_model import OpenModel
from glinthawk.llm.prompt_requests import prompt_of
from glinthawk.telemetry.progress import make_meter

__all__ = ["Answered", "answer_prompts", "finish_requests"]

#: The number of a prompt, and its choices in their order.
Answered = tuple[int, list[Sequence]]


def answer_prompts(
    model: OpenModel, requests: Iterable[Request | None]
) -> Generator[Answered, None, None]:
    """Prompts all of whose choices have finished, as they finish. ``requests`` is read as needed;
    None: there is none at hand, while others are under way. It may be left at any point."""
    with closing(model.run.engine.generate(requests, model.text.stop_found)) as sequences:
        yield from _gather(sequences)


def finish_requests(
    model: OpenModel, requests: list[Request], *, is_quiet: bool, adapter: int = 0
) -> list[Sequence]:
    """What came of ``requests``, in their order, by the LoRA adapter of this number."""
    requests = [replace(request, adapter=adapter) for request in requests]
    finished: dict[int, Sequence] = {}
    sequences = model.run.engine.generate(requests, model.text.stop_found)
    with make_meter(quiet=is_quiet) as meter, closing(sequences):
        for sequence in sequences:
            finished[sequence.request.id] = sequence
            meter.update(len(finished), len(requests), 0)
    return [finished[request.id] for request in requests]


def _gather(sequences: Iterable[Sequence]) -> Iterator[Answered]:
    finished: dict[int, dict[int, Sequence]] = {}
    for sequence in sequences:
        number, choice = prompt_of(sequence.request)
        choices = finished.setdefault(number, {})
        choices[choice] = sequence
        if len(choices) == sequence.request.params.n:
            del finished[number]
            yield number, [choices[place] for place in range(len(choices))]
