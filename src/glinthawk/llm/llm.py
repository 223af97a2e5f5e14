"""Answers to lists of prompts, with names and meanings as in vLLM's offline API."""

import textwrap
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast

from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import UsageError
from glinthawk.core.lora_request import LoRARequest
from glinthawk.core.pooling_params import PoolingParams
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.setting import describe_settings
from glinthawk.files.request_maker import TableOptions
from glinthawk.jobs.conversation import Conversation
from glinthawk.jobs.pooling_calls import embed_prompts, score_texts
from glinthawk.jobs.pooling_outputs import EmbeddingRequestOutput, ScoringRequestOutput
from glinthawk.jobs.pooling_prompts import PoolingReader
from glinthawk.llm.answering import answer_prompts, finish_requests
from glinthawk.llm.mapping import map_data
from glinthawk.llm.open_model import OpenModel, make_config, open_model
from glinthawk.llm.output_writer import write_output
from glinthawk.llm.prompt_reader import (
    Asked,
    Messages,
    Prompt,
    list_prompts,
    read_chat,
    read_prompt,
)
from glinthawk.llm.prompt_requests import make_requests
from glinthawk.llm.request_outputs import RequestOutput
from glinthawk.telemetry.progress import make_meter
from glinthawk.telemetry.stats import RunStats
from glinthawk.tokens.pooler import Reranker

__all__ = ["LLM"]

#: A LoRA adapter, by its name; None: the model itself.
_Adapter = LoRARequest | str | None


class LLM:
    __doc__ = f"""A model on one or two tiers, held open between calls.

    Use it with ``with``, or call ``close``: it may own worker processes. Raises UsageError for
    settings that cannot be, TypeError for those that there are not, ModelError for a model that
    cannot be loaded, and WorkerError for a worker that cannot be used. Settings are those of
    ``glinthawk run``, sizes may be text ("4GiB"):

    {textwrap.indent(describe_settings(EngineConfig), "    ").strip()}
    """

    def __init__(self, model: str, *, tier2: str | Sequence[str] = (), **settings: Any) -> None:
        config = make_config("LLM", model, tier2, settings)
        self._stack = ExitStack()
        self._opened: OpenModel | None = self._stack.enter_context(open_model(config))

    def __enter__(self) -> "LLM":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the run's workers and sessions; what is still asked for answers is told so."""
        if self._opened is not None:
            self._opened.run.engine.close()
        self._opened = None
        self._stack.close()

    @property
    def _model(self) -> OpenModel:
        if self._opened is None:
            raise UsageError("this LLM is closed; make a new one")
        return self._opened

    def get_tokenizer(self) -> Any:
        """The model's own, as ``transformers`` made it. Raises UsageError if there is none."""
        return self._model.tokenizer

    @property
    def stats(self) -> RunStats:
        """What each tier did so far."""
        return self._model.run.stats()

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        lora_request: _Adapter | Sequence[_Adapter] = None,
    ) -> list[RequestOutput]:
        """Answers in the order of ``prompts``. All prompts are checked before the first is run:
        raises RequestError for one that cannot be answered. ``use_tqdm`` shows progress.
        ``lora_request`` is one of the adapters in ``lora``, by its name, or one for each prompt;
        raises UsageError for another one."""
        many = list_prompts(prompts)
        pairs = zip(many, self._spread(sampling_params, len(many)), strict=True)
        asked = [read_prompt(self._model, prompt, params) for prompt, params in pairs]
        return self._answer(self._adapted(asked, lora_request), use_tqdm)

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
        lora_request: _Adapter | Sequence[_Adapter] = None,
    ) -> list[RequestOutput]:
        """Like ``generate`` for one conversation, or a list of them. The chat template is told
        ``tools`` and ``chat_template_kwargs``; with ``continue_final_message``, and without
        ``add_generation_prompt``, the answers go on with the last message."""
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
        asked = [read_chat(self._model, told(messages=said), params) for said, params in pairs]
        return self._answer(self._adapted(asked, lora_request), use_tqdm)

    def map(
        self,
        data: Any,
        sampling_params: SamplingParams | None = None,
        *,
        prompt_column: str | None = None,
        messages_column: str | None = None,
        template: str | None = None,
        endpoint: Literal["chat", "completions"] = "chat",
        body: Mapping[str, Any] | None = None,
        use_tqdm: bool = True,
    ) -> Any:
        """``data`` with answers beside its rows: a data frame of pandas or polars, an Arrow table,
        a ``datasets.Dataset``, a dictionary of NumPy's arrays or a list of dictionaries. An Arrow
        reader, an ``IterableDataset`` and other iterables of dictionaries are answered as they are
        read, some thousand rows ahead; take all of them before the next call of any kind.

        A row is asked by one of ``prompt_column``, ``messages_column`` and ``template`` (Jinja),
        as by the options of ``glinthawk run``; with ``endpoint`` "completions" a prompt is no
        message. ``body`` has other fields of a batch line's body. The new columns are answer,
        finish_reason, prompt_tokens, completion_tokens, error, error_code, and response: the
        answer's JSON where it says more. What is wrong with a row is that row's error. Raises
        UsageError where nothing can be asked."""
        options = TableOptions(
            prompt_column=prompt_column,
            messages_column=messages_column,
            template=template,
            endpoint=endpoint,
            body=body or {},
        )
        return map_data(self._model, data, options, sampling_params, is_quiet=not use_tqdm)

    def embed(
        self,
        prompts: Prompt | Sequence[Prompt],
        pooling_params: PoolingParams | Sequence[PoolingParams] | None = None,
        *,
        use_tqdm: bool = True,
        lora_request: _Adapter = None,
    ) -> list[EmbeddingRequestOutput]:
        """An embedding of each prompt, made as the model's files say; raises as ``generate``."""
        model = self._model
        reader = PoolingReader(model.text, model.run.limits, model.pooler)
        adapter = model.number_adapter(lora_request)
        run = partial(finish_requests, model, is_quiet=not use_tqdm, adapter=adapter)
        return embed_prompts(reader, run, list_prompts(prompts), pooling_params)

    def score(
        self,
        text_1: str | list[str],
        text_2: str | list[str],
        *,
        use_tqdm: bool = True,
        pooling_params: PoolingParams | None = None,
        reranker: Reranker = "auto",
        instruction: str | None = None,
        lora_request: _Adapter = None,
    ) -> list[ScoringRequestOutput]:
        """A score of each pair: of one text and many, or of as many; raises as ``generate``.
        ``reranker`` is as that of ``glinthawk run``; Qwen3-Reranker is told an ``instruction``."""
        model = self._model
        reader = PoolingReader(model.text, model.run.limits, model.pooler.scoring_by(reranker))
        adapter = model.number_adapter(lora_request)
        run = partial(finish_requests, model, is_quiet=not use_tqdm, adapter=adapter)
        return score_texts(reader, run, (text_1, text_2), pooling_params, instruction)

    def get_default_sampling_params(self) -> SamplingParams:
        """What answers are sampled by that no parameters are given for: the model's
        generation_config.json."""
        return self._model.default_params

    def _spread(
        self, params: SamplingParams | Sequence[SamplingParams] | None, count: int
    ) -> list[SamplingParams]:
        """One rule for each prompt: as given, or the same for all."""
        if params is None or isinstance(params, SamplingParams):
            return [params or self._model.default_params] * count
        if len(params) != count:
            raise ValueError(f"there are {count} prompts but {len(params)} sampling_params")
        return list(params)

    def _adapted(self, asked: list[Asked], adapters: _Adapter | Sequence[_Adapter]) -> list[Asked]:
        """Each by its adapter."""
        is_one = adapters is None or isinstance(adapters, str | LoRARequest)
        many: list[Any] = [adapters] * len(asked) if is_one else [*cast(Any, adapters)]
        if len(many) != len(asked):
            raise ValueError(f"there are {len(asked)} prompts but {len(many)} in lora_request")
        numbers = map(self._model.number_adapter, many)
        return [replace(one, adapter=n) for one, n in zip(asked, numbers, strict=True)]

    def _answer(self, asked: list[Asked], show: bool) -> list[RequestOutput]:
        model = self._model
        requests = [
            r for number, one in enumerate(asked) for r in make_requests(model, one, number)
        ]
        outputs: dict[int, RequestOutput] = {}
        tokens = 0
        answers = answer_prompts(model, requests)
        with make_meter(quiet=not show) as meter, closing(answers):
            for number, choices in answers:
                outputs[number] = write_output(model, str(number), asked[number], choices)
                tokens += sum(len(choice.output) for choice in choices)
                meter.update(len(outputs), len(asked), tokens)
        return [outputs[number] for number in range(len(asked))]
