"""What ``generate`` and ``chat`` give back, as vLLM names it."""

from dataclasses import dataclass

from glinthawk.jobs.vllm_logprobs import PromptLogprobs, SampleLogprobs

__all__ = ["CompletionOutput", "RequestOutput"]


@dataclass(frozen=True, slots=True)
class CompletionOutput:
    """One answer to a prompt. ``token_ids`` include the token that ended it, ``text`` does not.

    ``finish_reason`` is "stop", "length", or "error" where an answer without ``max_tokens`` has
    outgrown the KV memory: what is there of it is its beginning. It is None while the answer grows.
    ``stop_reason`` is the string of ``stop``, or the token of ``stop_token_ids``, that ended it.
    With ``SamplingParams.logprobs``, ``logprobs`` has a dictionary for each token, by token ids: of
    itself first, and of the likeliest ones.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: str | None = None
    logprobs: SampleLogprobs | None = None
    stop_reason: int | str | None = None

    @property
    def cumulative_logprob(self) -> float | None:
        """Of all tokens together; None without ``logprobs``."""
        if self.logprobs is None:
            return None
        pairs = zip(self.token_ids, self.logprobs, strict=True)
        return sum(entries[token].logprob for token, entries in pairs)

    def finished(self) -> bool:
        """Whether the answer is whole."""
        return self.finish_reason is not None


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """All answers to one prompt; there are ``n``. With ``SamplingParams.prompt_logprobs``,
    ``prompt_logprobs`` has a dictionary for each token of the prompt, by token ids: of itself, and
    of the likeliest ones; None for the first token, which nothing comes before."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool = True
    prompt_logprobs: PromptLogprobs | None = None
