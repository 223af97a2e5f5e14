"""What ``AsyncLLM`` gives of a prompt whose answers grow."""

from collections.abc import Sequence as Many
from dataclasses import replace

from glinthawk.core.sequence import Request, Sequence
from glinthawk.core.vllm_params import RequestOutputKind
from glinthawk.jobs.growing_text import GrowingText
from glinthawk.jobs.vllm_logprobs import SampleLogprobs, sample_logprobs
from glinthawk.llm.open_model import OpenModel
from glinthawk.llm.output_writer import write_choice, write_scores
from glinthawk.llm.prompt_reader import Asked
from glinthawk.llm.prompt_requests import prompt_of
from glinthawk.llm.request_outputs import CompletionOutput, RequestOutput

__all__ = ["GrowingOutput"]


class _GrowingChoice:
    """Of one request, and what of it was given already."""

    def __init__(self, model: OpenModel, request: Request, index: int) -> None:
        self._model, self.index = model, index
        self._text = GrowingText(request, model.text)
        self._num_chars = self._num_tokens = 0
        self.sequence = Sequence(request)
        self.whole: CompletionOutput | None = None

    def write(self) -> CompletionOutput:
        """All that there is of it."""
        if self.whole is not None:
            return self.whole
        sequence, params = self.sequence, self.sequence.request.params
        return CompletionOutput(
            index=self.index,
            text=self._text.read(sequence.output),
            token_ids=sequence.output,
            logprobs=None if params.logprobs is None else self._logprobs(),
        )

    def _logprobs(self) -> SampleLogprobs:
        return sample_logprobs(self.sequence, self._model.text)

    def write_new(self) -> CompletionOutput:
        """What was not given before."""
        output = self.write()
        chars, tokens = self._num_chars, self._num_tokens
        self._num_chars, self._num_tokens = len(output.text), len(output.token_ids)
        logprobs = None if output.logprobs is None else output.logprobs[tokens:]
        return replace(
            output,
            text=output.text[chars:],
            token_ids=output.token_ids[tokens:],
            logprobs=logprobs,
        )


class GrowingOutput:
    """``requests`` are those of ``asked``. What has been scored of the prompt comes at the end."""

    def __init__(
        self, model: OpenModel, request_id: str, asked: Asked, requests: Many[Request]
    ) -> None:
        self._model, self._request_id, self._asked = model, request_id, asked
        self._prompt = list(requests[0].prompt)
        self._choices = [_GrowingChoice(model, one, index) for index, one in enumerate(requests)]

    @property
    def is_whole(self) -> bool:
        """Whether all has finished."""
        return all(choice.whole is not None for choice in self._choices)

    def grow(self, newest: Many[Sequence]) -> RequestOutput | None:
        """What to give now that these have grown, or finished."""
        changed = [self._take(sequence) for sequence in newest]
        kind, is_whole = self._asked.params.output_kind, self.is_whole
        if kind is RequestOutputKind.DELTA:
            return self._output([choice.write_new() for choice in changed], is_whole)
        if kind is RequestOutputKind.FINAL_ONLY and not is_whole:
            return None
        return self._output([choice.write() for choice in self._choices], is_whole)

    def abort(self) -> RequestOutput:
        """What there is of it, as it stays; of a delta, nothing."""
        is_delta = self._asked.params.output_kind is RequestOutputKind.DELTA
        outputs = [one.write_new() if is_delta else one.write() for one in self._choices]
        ended = [replace(one, finish_reason=one.finish_reason or "abort") for one in outputs]
        return self._output(ended, is_whole=True)

    def _take(self, sequence: Sequence) -> _GrowingChoice:
        choice = self._choices[prompt_of(sequence.request)[1]]
        choice.sequence = sequence
        if sequence.finish_reason is not None:
            choice.whole = write_choice(self._model, choice.index, sequence)
        return choice

    def _output(self, outputs: list[CompletionOutput], is_whole: bool) -> RequestOutput:
        scored = self._choices[0]
        is_scored = scored.whole is not None
        return RequestOutput(
            self._request_id,
            self._asked.text,
            self._prompt,
            outputs,
            finished=is_whole,
            prompt_logprobs=write_scores(self._model, scored.sequence)
            if is_whole and is_scored
            else None,
        )
