"""Answers as Python is given them, in vLLM's shapes."""

from dataclasses import dataclass

from glinthawk.core.sequence import TokenLogprobs
from glinthawk.jobs.prompt_logprobs import Logprob

__all__ = ["CompletionOutput", "RequestOutput"]


@dataclass(frozen=True, slots=True)
class CompletionOutput:
    """One answer to a prompt. ``token_ids`` include the token that ended it, ``text`` does not.

    ``finish_reason`` is "stop", "length", or "error" where an answer without ``max_tokens`` has
    outgrown the KV memory: what is there of it is its beginning.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: str
    logprobs: list[TokenLogprobs] | None

    @property
    def cumulative_logprob(self) -> float | None:
        """Of all tokens together; None without ``logprobs``."""
        return None if self.logprobs is None else sum(entry.logprob for entry in self.logprobs)


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
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
