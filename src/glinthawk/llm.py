"""The Python face, with names and meanings as in vLLM's offline API."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import RequestError, UsageError
from glinthawk.core.pooling_params import PoolingParams
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.seeds import choice_seed
from glinthawk.core.sequence import Request
from glinthawk.core.sequence import Sequence as TokenSequence
from glinthawk.core.setting import describe_settings, list_settings
from glinthawk.core.source import resolve_model
from glinthawk.core.vllm_settings import explain_unknown
from glinthawk.engine.run import Run, open_run
from glinthawk.jobs.conversation import Conversation
from glinthawk.jobs.pooling_calls import embed_prompts, score_texts
from glinthawk.jobs.pooling_outputs import EmbeddingRequestOutput, ScoringRequestOutput
from glinthawk.jobs.pooling_prompts import PoolingReader
from glinthawk.jobs.prompt_logprobs import Logprob, prompt_logprobs
from glinthawk.jobs.request_outputs import CompletionOutput, RequestOutput
from glinthawk.jobs.results import answer_text
from glinthawk.jobs.text import Text
from glinthawk.telemetry.progress import make_meter
from glinthawk.telemetry.stats import RunStats
from glinthawk.tokens.generation_defaults import load_sampling_defaults
from glinthawk.tokens.pooler import Reranker, load_pooler

__all__ = ["LLM", "CompletionOutput", "Logprob", "Messages", "Prompt", "RequestOutput"]

#: A prompt: text, token ids, ``{"prompt": text}`` or ``{"prompt_token_ids": [...]}``.
Prompt = str | Sequence[int] | dict[str, Any]
Messages = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A prompt with its rules."""

    text: str | None
    token_ids: tuple[int, ...]
    params: SamplingParams


class LLM:
    __doc__ = f"""A model on one or two tiers, held open between calls.

    Use it with ``with``, or call ``close``: it may own worker processes. Raises UsageError for
    settings that cannot be, TypeError for those that there are not, ModelError for a model that
    cannot be loaded, and WorkerError for a worker that cannot be used. Settings are those of
    ``glinthawk run``, sizes may be text ("4GiB"):

    {textwrap.indent(describe_settings(EngineConfig), "    ").strip()}
    """

    def __init__(self, model: str, *, tier2: str | Sequence[str] = (), **settings: Any) -> None:
        _check_names(settings)
        places = (tier2,) if isinstance(tier2, str) else tuple(tier2)
        self._config = EngineConfig(model=model, tier2=places, **settings)
        source = resolve_model(model)
        self._text = Text.load(source, self._config.trust_remote_code)
        self._stack = ExitStack()
        self._opened: Run | None = self._stack.enter_context(open_run(self._config))
        self._defaults = load_sampling_defaults(source)
        self._pooler = load_pooler(source, self._config.trust_remote_code)
        self._eos_token_ids = self._text.eos_token_ids(source, self._config.trust_remote_code)

    def __enter__(self) -> "LLM":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the run's workers and sessions."""
        self._opened = None
        self._stack.close()

    @property
    def _run(self) -> Run:
        if self._opened is None:
            raise UsageError("this LLM is closed; make a new one")
        return self._opened

    def get_tokenizer(self) -> Any:
        """The model's own, as ``transformers`` made it. Raises UsageError if there is none."""
        if self._text.tokenizer is None:
            raise UsageError("this model has no tokenizer; give prompts as token ids")
        return self._text.tokenizer

    @property
    def stats(self) -> RunStats:
        """What each tier did so far."""
        return self._run.stats()

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Answers in the order of ``prompts``. All prompts are checked before the first is run:
        raises RequestError for one that cannot be answered. ``use_tqdm`` shows progress."""
        self._pooler.require_head()
        many = _list_prompts(prompts)
        pairs = zip(many, self._spread(sampling_params, len(many)), strict=True)
        return self._answer([self._asked(prompt, params) for prompt, params in pairs], use_tqdm)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: list[dict[str, Any]] | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Like ``generate`` for one conversation, or a list of them. The chat template is told
        ``tools`` and ``chat_template_kwargs``; with ``continue_final_message``, and without
        ``add_generation_prompt``, the answers go on with the last message."""
        self._pooler.require_head()
        many: list[Any] = list(messages)
        conversations = [many] if many and isinstance(many[0], dict) else many
        told = partial(
            Conversation,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            extras=chat_template_kwargs or {},
        )
        pairs = zip(conversations, self._spread(sampling_params, len(conversations)), strict=True)
        asked = [self._chat(told(messages=said), params) for said, params in pairs]
        return self._answer(asked, use_tqdm)

    def embed(
        self,
        prompts: Prompt | Sequence[Prompt],
        pooling_params: PoolingParams | Sequence[PoolingParams] | None = None,
        *,
        use_tqdm: bool = True,
    ) -> list[EmbeddingRequestOutput]:
        """An embedding of each prompt, made as the model's files say; raises as ``generate``."""
        reader = PoolingReader(self._text, self._run.limits, self._pooler)
        run = partial(self._finish, show=use_tqdm)
        return embed_prompts(reader, run, _list_prompts(prompts), pooling_params)

    def score(
        self,
        text_1: str | list[str],
        text_2: str | list[str],
        *,
        use_tqdm: bool = True,
        pooling_params: PoolingParams | None = None,
        reranker: Reranker = "auto",
        instruction: str | None = None,
    ) -> list[ScoringRequestOutput]:
        """A score of each pair: of one text and many, or of as many; raises as ``generate``.
        ``reranker`` is as that of ``glinthawk run``; Qwen3-Reranker is told an ``instruction``."""
        pooler = self._pooler.scoring_by(reranker)
        reader = PoolingReader(self._text, self._run.limits, pooler)
        run = partial(self._finish, show=use_tqdm)
        return score_texts(reader, run, (text_1, text_2), pooling_params, instruction)

    def get_default_sampling_params(self) -> SamplingParams:
        """What answers are sampled by that no parameters are given for: the model's
        generation_config.json."""
        return SamplingParams(**self._defaults)

    def _spread(
        self, params: SamplingParams | Sequence[SamplingParams] | None, count: int
    ) -> list[SamplingParams]:
        """One rule for each prompt: as given, or the same for all."""
        if params is None or isinstance(params, SamplingParams):
            return [params or self.get_default_sampling_params()] * count
        if len(params) != count:
            raise ValueError(f"there are {count} prompts but {len(params)} sampling_params")
        return list(params)

    def _chat(self, said: Conversation, params: SamplingParams) -> _Asked:
        most = self._run.limits.longest_prompt(params)
        return _Asked(None, self._text.encode_chat(said, most), params)

    def _asked(self, prompt: Prompt, params: SamplingParams) -> _Asked:
        given = prompt if isinstance(prompt, dict) else {}
        ids = given.get("prompt_token_ids", prompt)
        text = given.get("prompt") if given else prompt
        if isinstance(ids, list | tuple) and all(_is_token(item) for item in ids):
            return _Asked(text if isinstance(text, str) else None, tuple(ids), params)
        if not isinstance(text, str):
            raise RequestError(
                "a prompt is text, a list of token ids, or a dictionary with one of them as "
                f"'prompt' or 'prompt_token_ids', not {prompt!r:.80}",
                param="prompt",
            )
        most = self._run.limits.longest_prompt(params)
        return _Asked(text, self._text.encode(text, most), params)

    def _answer(self, asked: list[_Asked], show: bool) -> list[RequestOutput]:
        answers = iter(self._finish(list(self._requests(asked)), show))
        return [self._output(number, one, answers) for number, one in enumerate(asked)]

    def _finish(self, requests: list[Request], show: bool) -> list[TokenSequence]:
        """What came of ``requests``, in their order."""
        finished: dict[int, TokenSequence] = {}
        tokens = 0
        sequences = self._run.engine.generate(requests, self._stop_found)
        with make_meter(quiet=not show) as meter, closing(sequences):
            for sequence in sequences:
                finished[sequence.request.id] = sequence
                tokens += len(sequence.output)
                meter.update(len(finished), len(requests), tokens)
        return [finished[request.id] for request in requests]

    def _requests(self, asked: Iterable[_Asked]) -> Iterator[Request]:
        number = 0
        for index, one in enumerate(asked):
            if one.params.stop:
                self._text.require_stop_strings()
            if one.params.structured_outputs is not None:
                self._text.require_grammar(one.params.structured_outputs)
            limits = self._run.limits
            limits.check_tokens(one.params)
            prompt = limits.truncate(one.token_ids, one.params)
            max_tokens = limits.max_tokens(prompt, one.params.max_tokens)
            bad_tokens = self._text.bad_tokens(one.params)
            for choice in range(one.params.n):
                yield Request(
                    id=number,
                    prompt=prompt,
                    params=one.params.of_choice(choice),
                    seed=choice_seed(self._config.seed, one.params, str(index), choice, prompt),
                    max_tokens=max_tokens,
                    eos_token_ids=frozenset() if one.params.ignore_eos else self._eos_token_ids,
                    bad_tokens=bad_tokens,
                )
                number += 1

    def _stop_found(self, sequence: TokenSequence, token: int) -> bool:
        request = sequence.request
        return self._text.find_stop(request.prompt, [*sequence.output, token], request.params)

    def _output(
        self, number: int, asked: _Asked, answers: Iterator[TokenSequence]
    ) -> RequestOutput:
        choices = [next(answers) for _ in range(asked.params.n)]
        outputs = [self._choice(index, choice) for index, choice in enumerate(choices)]
        num_top = asked.params.prompt_logprobs
        scores = None if num_top is None else prompt_logprobs(choices[0], self._text, num_top)
        ids = list(choices[0].request.prompt)  # what truncate_prompt_tokens has left
        return RequestOutput(str(number), asked.text, ids, outputs, prompt_logprobs=scores)

    def _choice(self, index: int, sequence: TokenSequence) -> CompletionOutput:
        assert sequence.finish_reason is not None
        asked_logprobs = sequence.request.params.logprobs is not None
        return CompletionOutput(
            index=index,
            text=answer_text(self._text, sequence),
            token_ids=sequence.output,
            finish_reason=self._finish_reason(sequence),
            logprobs=sequence.logprobs if asked_logprobs else None,
        )

    def _finish_reason(self, sequence: TokenSequence) -> str:
        assert sequence.finish_reason is not None
        try:
            self._run.limits.check_answer(sequence)
        except RequestError:
            return "error"
        return sequence.finish_reason.value


def _check_names(settings: Iterable[str]) -> None:
    known = [one.name for one in list_settings(EngineConfig)]
    for name in settings:
        if name not in known:
            advice = explain_unknown(name, known)
            raise TypeError(f"LLM() got an unexpected keyword argument {name!r}: {advice}")


def _list_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Any]:
    """One prompt is a list of one."""
    many: list[Any] = [prompts] if isinstance(prompts, str | dict) else list(prompts)
    return [many] if many and all(_is_token(item) for item in many) else many


def _is_token(item: object) -> bool:
    return isinstance(item, int) and not isinstance(item, bool)
