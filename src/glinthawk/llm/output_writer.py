"""Sequences become what ``generate`` gives back."""

from collections.abc import Sequence as Many

from glinthawk.core.errors import RequestError
from glinthawk.core.sequence import FinishReason, Sequence
from glinthawk.jobs.results import answer_text
from glinthawk.jobs.vllm_logprobs import PromptLogprobs, prompt_logprobs, sample_logprobs
from glinthawk.llm.open_model import OpenModel
from glinthawk.llm.prompt_reader import Asked
from glinthawk.llm.request_outputs import CompletionOutput, RequestOutput

__all__ = ["write_choice", "write_output", "write_scores"]


def write_output(
    model: OpenModel, request_id: str, asked: Asked, choices: Many[Sequence]
) -> RequestOutput:
    """Of a prompt whose choices have all finished, in their order."""
    return RequestOutput(
        request_id,
        asked.text,
        list(choices[0].request.prompt),  # what truncate_prompt_tokens has left
        [write_choice(model, index, choice) for index, choice in enumerate(choices)],
        prompt_logprobs=write_scores(model, choices[0]),
    )


def write_scores(model: OpenModel, sequence: Sequence) -> PromptLogprobs | None:
    """Of a prompt's tokens, by the first of its choices; None where nobody has asked."""
    num_top = sequence.request.params.prompt_logprobs
    return None if num_top is None else prompt_logprobs(sequence, model.text, num_top)


def write_choice(model: OpenModel, index: int, sequence: Sequence) -> CompletionOutput:
    """Of a sequence that has finished."""
    params = sequence.request.params
    return CompletionOutput(
        index=index,
        text=answer_text(model.text, sequence) if params.detokenize else "",
        token_ids=sequence.output,
        finish_reason=_finish_reason(model, sequence),
        logprobs=sample_logprobs(sequence, model.text) if params.logprobs is not None else None,
        stop_reason=_stop_reason(model, sequence),
    )


def _finish_reason(model: OpenModel, sequence: Sequence) -> str:
    assert sequence.finish_reason is not None
    try:
        model.run.limits.check_answer(sequence)
    except RequestError:
        return "error"
    return sequence.finish_reason.value


def _stop_reason(model: OpenModel, sequence: Sequence) -> int | str | None:
    request, output = sequence.request, sequence.output
    if sequence.finish_reason is not FinishReason.STOP:
        return None
    if found := model.text.stop_string(request.prompt, output, request.params):
        return found
    is_named = output[-1] in request.params.stop_token_ids
    return output[-1] if is_named and output[-1] not in request.eos_token_ids else None
