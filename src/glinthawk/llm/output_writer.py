"""Sequences become what ``generate`` gives back."""

from collections.abc import Sequence as Many

from glinthawk.core.errors import RequestError
from glinthawk.core.sequence import Sequence
from glinthawk.jobs.prompt_logprobs import prompt_logprobs
from glinthawk.jobs.results import answer_text
from glinthawk.llm.open_model import OpenModel
from glinthawk.llm.prompt_reader import Asked
from glinthawk.llm.request_outputs import CompletionOutput, RequestOutput

__all__ = ["write_output"]


def write_output(
    model: OpenModel, request_id: str, asked: Asked, choices: Many[Sequence]
) -> RequestOutput:
    """Of a prompt whose choices have all finished, in their order."""
    num_top = asked.params.prompt_logprobs
    scores = None if num_top is None else prompt_logprobs(choices[0], model.text, num_top)
    return RequestOutput(
        request_id,
        asked.text,
        list(choices[0].request.prompt),  # what truncate_prompt_tokens has left
        [_write_choice(model, index, choice) for index, choice in enumerate(choices)],
        prompt_logprobs=scores,
    )


def _write_choice(model: OpenModel, index: int, sequence: Sequence) -> CompletionOutput:
    asked_logprobs = sequence.request.params.logprobs is not None
    return CompletionOutput(
        index=index,
        text=answer_text(model.text, sequence),
        token_ids=sequence.output,
        finish_reason=_finish_reason(model, sequence),
        logprobs=sequence.logprobs if asked_logprobs else None,
    )


def _finish_reason(model: OpenModel, sequence: Sequence) -> str:
    assert sequence.finish_reason is not None
    try:
        model.run.limits.check_answer(sequence)
    except RequestError:
        return "error"
    return sequence.finish_reason.value
