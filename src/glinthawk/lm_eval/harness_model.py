"""lm-evaluation-harness asks, glinthawk answers: log-likelihoods, whole texts, generations."""

import weakref
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from glinthawk.core.errors import UsageError
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Sequence
from glinthawk.jobs.vllm_logprobs import prompt_scores
from glinthawk.llm.answering import answer_prompts
from glinthawk.llm.open_model import make_config, open_model
from glinthawk.llm.prompt_reader import Asked
from glinthawk.llm.prompt_requests import make_requests
from glinthawk.lm_eval.generation import Generation, read_generation
from glinthawk.lm_eval.harness_tokenizer import HarnessTokenizer
from glinthawk.telemetry.progress import make_meter

__all__ = ["HarnessModel"]

#: Nothing is generated, and every token of the prompt is scored.
_SCORED = SamplingParams(max_tokens=0, prompt_logprobs=0)
#: What a text and its continuation are called, and the token ids of both.
_Pair = tuple[tuple[str, str] | None, list[int], list[int]]


@register_model("glinthawk")
class HarnessModel(TemplateLM):  # type: ignore[misc]
    """``pretrained`` is the model; ``tier2`` and other settings are those of ``LLM``.

    ``max_length`` is the longest window that log-likelihoods are taken of, and by default one token
    less than the model's: behind each window stands a token that it predicts. The engine chooses
    its batches itself, so ``batch_size`` is not looked at. Raises as ``LLM`` does.
    """

    def __init__(
        self,
        pretrained: str,
        *,
        tier2: str | tuple[str, ...] = (),
        max_length: int | None = None,
        max_gen_toks: int = 256,
        prefix_token_id: int | None = None,
        add_bos_token: bool | None = None,
        think_end_token: str | None = None,
        enable_thinking: bool | None = None,
        chat_template_args: dict[str, Any] | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str = "auto",
        **settings: Any,
    ) -> None:
        super().__init__()
        stack = ExitStack()
        # The harness's command says "cuda:0" where nobody has said anything.
        settings["device"] = device if device in ("cpu", "cuda") else "auto"
        config = make_config("glinthawk", pretrained, tier2, settings)
        self._model = stack.enter_context(open_model(config))
        # The harness says nothing when it needs a model no more.
        self.close = weakref.finalize(self, stack.close)
        if self._model.text.tokenizer is None:
            raise UsageError("this model has no tokenizer; tasks are text, so give one that has")
        self.tokenizer = self._model.text.tokenizer
        arguments = dict(chat_template_args or {})
        if enable_thinking is not None:
            arguments["enable_thinking"] = enable_thinking
        self._words = HarnessTokenizer(
            self.tokenizer,
            prefix_token_id=prefix_token_id,
            add_bos_token=add_bos_token,
            template_arguments=arguments,
        )
        self._max_gen_toks, self._think_end_token = max_gen_toks, think_end_token
        self._set_length(max_length)

    def _set_length(self, given: int | None) -> None:
        most = self._model.run.limits.max_model_len
        if given is not None and not 0 < given < most:
            raise UsageError(
                f"max_length must be from 1 to {most - 1}, for the token behind it has room, too, "
                f"not {given}; raise max_model_len, or lower it"
            )
        self.max_length = most - 1 if given is None else given
        self._most_tokens = most if given is None else given

    # -- what the harness asks of the tokenizer ----------------------------------------------------

    @property
    def eot_token_id(self) -> int | None:
        end: int | None = self.tokenizer.eos_token_id
        return end

    @property
    def prefix_token_id(self) -> int | None:
        return self._words.prefix_token_id

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    @property
    def max_gen_toks(self) -> int:
        return self._max_gen_toks

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: object
    ) -> list[int]:
        return self._words.encode(string, add_special_tokens)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        return self._words.render(chat_history, add_generation_prompt)

    # -- what it asks of the model -----------------------------------------------------------------

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Of whole texts, window by window."""
        texts = [request.args[0] for request in requests]
        windows = [self._windows(text) for text in texts]
        pairs: list[_Pair] = [(None, *window) for part in windows for window in part]
        scores = iter(self._loglikelihood_tokens(pairs, disable_tqdm))
        totals = [sum(next(scores)[0] for _ in part) for part in windows]
        for text, total in zip(texts, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return totals

    def _windows(self, text: str) -> list[tuple[list[int], list[int]]]:
        tokens = self.tok_encode(text)
        rolling = get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, 1)
        return [make_disjoint_window(window) for window in rolling]

    def _loglikelihood_tokens(
        self, requests: list[_Pair], disable_tqdm: bool = False, **others: object
    ) -> list[tuple[float, bool]]:
        """How likely each continuation is, and whether it is what would be generated."""
        asked = [
            Asked(None, tuple(context + continuation)[-self.max_length - 1 :], _SCORED)
            for _, context, continuation in requests
        ]
        answers: dict[int, tuple[float, bool]] = {}
        for number, sequence in self._answer(asked, disable_tqdm):
            key, _, continuation = requests[number]
            answers[number] = _score(sequence, len(continuation))
            if key is not None:
                self.cache_hook.add_partial("loglikelihood", key, answers[number])
        return [answers[number] for number in range(len(requests))]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        wishes = [self._generation(request.args[1]) for request in requests]
        asked = [
            Asked(None, tuple(self.tok_encode(request.args[0])), wish.params)
            for request, wish in zip(requests, wishes, strict=True)
        ]
        texts: dict[int, str] = {}
        for number, sequence in self._answer(asked, disable_tqdm):
            text = self._words.decode(sequence.output)
            until = wishes[number].until
            texts[number] = postprocess_generated_text(text, until, self._think_end_token)
            self.cache_hook.add_partial("generate_until", requests[number].args, texts[number])
        return [texts[number] for number in range(len(requests))]

    def _generation(self, given: dict[str, Any]) -> Generation:
        return read_generation(
            given,
            end_of_text=self._words.end_of_text,
            max_gen_toks=self._max_gen_toks,
            max_length=self._most_tokens,
            is_thinking=self._think_end_token is not None,
        )

    def _answer(self, asked: list[Asked], is_quiet: bool) -> Iterator[tuple[int, Sequence]]:
        """By number, as they finish."""
        # Neighbours share their beginnings, so that what they share is computed once.
        order = sorted(range(len(asked)), key=lambda number: asked[number].token_ids)
        requests = (r for n in order for r in make_requests(self._model, asked[n], n))
        answers = answer_prompts(self._model, requests)
        tokens = 0
        with make_meter(quiet=is_quiet) as meter, closing(answers):
            for count, (number, (sequence,)) in enumerate(answers, start=1):
                yield number, sequence
                tokens += sequence.length
                meter.update(count, len(asked), tokens)


def _score(sequence: Sequence, count: int) -> tuple[float, bool]:
    """Of the last ``count`` tokens of a prompt."""
    scores = prompt_scores(sequence)
    last = scores[len(scores) - count :]
    return sum(score.logprob for score in last), all(score.rank == 1 for score in last)
