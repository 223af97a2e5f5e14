"""The room a run has for one request, known before the first request is read."""

from dataclasses import dataclass

from glinthawk.core.errors import RequestError
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import FinishReason, Sequence

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What any one request must fit in."""

    #: Longest prompt plus output, in tokens.
    max_model_len: int
    #: Tokens of KV cache that the largest single home holds.
    kv_tokens: int
    vocab_size: int
    #: What ``max_model_len`` may be raised to.
    longest_len: int = 0
    #: What gives one sequence more room on this run's machines (``core/more_kv.py``).
    more_kv: str = "give it more KV memory"

    def shorter(self, length: int) -> str:
        """What helps a prompt of ``length`` tokens that is too long."""
        if self.longest_len <= self.max_model_len:
            return "the model takes no more, so shorten it"
        if length >= self.longest_len:
            return f"the model takes {self.longest_len} at most, so shorten it"
        return f"shorten it, or raise --max-model-len to at most {self.longest_len}"

    def check_tokens(self, params: SamplingParams) -> None:
        """Raise RequestError for parameters that name a token which the model does not have."""
        for name in ("stop_token_ids", "logit_bias", "allowed_token_ids"):
            for token in getattr(params, name) or ():
                if not 0 <= token < self.vocab_size:
                    raise RequestError(
                        f"{name}: {token} is not in the vocabulary (0 to {self.vocab_size - 1})",
                        param=name,
                    )

    def longest_prompt(self, params: SamplingParams) -> int | None:
        """Tokens beyond which a prompt need not be counted; None for one that is cut anyway."""
        return self.max_model_len if params.truncate_prompt_tokens is None else None

    def truncate(self, prompt: tuple[int, ...], params: SamplingParams) -> tuple[int, ...]:
        """The last ``truncate_prompt_tokens`` of ``prompt``; -1: as many as leave room for the
        answer."""
        kept = params.truncate_prompt_tokens
        if kept == -1:
            room = 1 if params.max_tokens is None else params.max_tokens
            kept = max(1, self.max_model_len - room)
        return prompt if kept is None else prompt[-kept:]

    def check_prompt(self, prompt: tuple[int, ...], fewest: int) -> None:
        """Raise RequestError for a prompt that no amount of waiting can answer with ``fewest``
        tokens."""
        if not prompt:
            raise RequestError("the prompt has no tokens; give at least one", param="prompt")
        worst = max(prompt) if min(prompt) >= 0 else min(prompt)
        if not 0 <= worst < self.vocab_size:
            raise RequestError(
                f"token id {worst} is not in the vocabulary (0 to {self.vocab_size - 1})",
                param="prompt",
            )
        if len(prompt) + fewest > self.max_model_len:
            excess = "which leaves no room for an answer in" if fewest else "more than"
            raise RequestError(
                f"the prompt has {len(prompt)} tokens, {excess} the maximum length of "
                f"{self.max_model_len}; {self.shorter(len(prompt))}",
                param="prompt",
                code="context_length_exceeded",
            )
        if len(prompt) > self.kv_tokens:
            raise RequestError(
                f"the prompt has {len(prompt)} tokens but no KV memory holds more than "
                f"{self.kv_tokens}; {self.more_kv}",
                param="prompt",
                code="kv_memory_exceeded",
            )

    def max_tokens(self, prompt: tuple[int, ...], asked: int | None) -> int:
        """Most tokens to produce after ``prompt`` when the request asks for ``asked``.

        An answer that reaches the model's length ends there with finish reason "length". No answer
        depends on the machine's memory: an explicit wish that the KV memory can never hold is an
        error, and an open one is when it comes so far (``check_answer``).
        """
        # Prompts that are only scored may be as long as the model allows.
        self.check_prompt(prompt, fewest=0 if asked == 0 else 1)
        room = self.max_model_len - len(prompt)
        wanted = room if asked is None else min(asked, room)
        # The last token is sampled but its KV is never needed.
        kv_room = self.kv_tokens - len(prompt) + 1
        if wanted <= kv_room:
            return wanted
        if asked is None:
            return kv_room
        raise RequestError(
            f"prompt and max_tokens need {len(prompt) + wanted - 1} tokens of KV memory but no "
            f"place holds more than {self.kv_tokens}; {self.more_kv}, or lower max_tokens",
            param="max_tokens",
            code="kv_memory_exceeded",
        )

    def check_answer(self, sequence: Sequence) -> None:
        """Raise RequestError for a finished answer that the KV memory, and nothing else, ended."""
        request = sequence.request
        is_open = request.params.max_tokens is None
        room = self.max_model_len - len(request.prompt)
        if sequence.finish_reason is FinishReason.LENGTH and is_open and request.max_tokens < room:
            raise RequestError(
                f"the answer outgrew the {self.kv_tokens} tokens of KV memory that the largest "
                f"place holds; {self.more_kv}, or give max_tokens",
                param="max_tokens",
                code="kv_memory_exceeded",
            )
