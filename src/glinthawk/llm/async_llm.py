"""Answers to prompts that come one by one, as they grow: vLLM's AsyncLLM, with its habits."""

import textwrap
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import UsageError
from glinthawk.core.lora_request import LoRARequest
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.setting import describe_settings
from glinthawk.core.vllm_params import RequestOutputKind
from glinthawk.engine.awaiting_asker import AwaitingAsker
from glinthawk.engine.shared_engine import SharedEngine
from glinthawk.llm.growing_output import GrowingOutput
from glinthawk.llm.open_model import OpenModel, make_config, share_model
from glinthawk.llm.prompt_reader import Asked, Prompt, read_prompt
from glinthawk.llm.prompt_requests import make_requests
from glinthawk.llm.request_outputs import RequestOutput

__all__ = ["AsyncLLM"]


@dataclass(slots=True)
class _Open:
    """One who asks; ``number`` is its name at the engine."""

    asker: AwaitingAsker
    number: int
    is_aborted: bool = False


class AsyncLLM:
    __doc__ = f"""A model on one or two tiers that any number of coroutines share.

    Use it with ``with``, or call ``shutdown``: it may own worker processes, and its engine has a
    thread. Raises as ``LLM`` does, whose settings it takes:

    {textwrap.indent(describe_settings(EngineConfig), "    ").strip()}
    """

    def __init__(self, model: str, *, tier2: str | Sequence[str] = (), **settings: Any) -> None:
        config = make_config("AsyncLLM", model, tier2, settings)
        self._stack = ExitStack()
        opened = self._stack.enter_context(share_model(config))
        self._opened: tuple[OpenModel, SharedEngine] | None = opened
        self._open: dict[str, _Open] = {}
        self._numbers = count()

    def __enter__(self) -> "AsyncLLM":
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def shutdown(self) -> None:
        """Give up what is under way, which raises UsageError where it is awaited, and end the run's
        workers and sessions."""
        self._opened = None
        self._stack.close()

    async def generate(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        lora_request: LoRARequest | str | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """The answers to one prompt as they grow, and whole at the end (``finished``);
        ``sampling_params.output_kind`` says whether each output has all of them, what is new, or
        whether there is the last one alone. Who leaves the loop gives the answers up.

        Answers that are sampled without a seed depend on ``request_id``; None is a number, counted
        up. ``lora_request`` is one of the adapters in ``lora``. Raises RequestError for a prompt
        that cannot be answered, UsageError for an adapter that there is not, ValueError for a
        request_id that is under way, and what has ended the engine: then nobody is answered any
        more.
        """
        model, engine = self._parts
        params = sampling_params or model.default_params
        name = self._free_number() if request_id is None else request_id
        if name in self._open:
            raise ValueError(f"request_id {name!r} is under way already; give each its own")
        adapter = model.number_adapter(lora_request)
        asked = replace(read_prompt(model, prompt, params), adapter=adapter)
        output, asker = _ask(model, name, asked)
        one = self._open[name] = _Open(asker, engine.ask(asker))
        try:
            async for newest in asker.steps():
                if (grown := output.grow(newest)) is not None:
                    yield grown
            if one.is_aborted and not output.is_whole:
                yield output.abort()
        finally:
            del self._open[name]
            engine.withdraw(one.number)

    async def abort(self, request_id: str | Iterable[str]) -> None:
        """End requests: each gives what there is of it, with the finish_reason "abort". Those that
        are not under way are passed over."""
        names = [request_id] if isinstance(request_id, str) else request_id
        for one in [self._open[name] for name in names if name in self._open]:
            one.is_aborted = True
            one.asker.abort()

    async def get_tokenizer(self) -> Any:
        """The model's own, as ``transformers`` made it. Raises UsageError if there is none."""
        return self._parts[0].tokenizer

    def _free_number(self) -> str:
        return next(name for name in map(str, self._numbers) if name not in self._open)

    @property
    def _parts(self) -> tuple[OpenModel, SharedEngine]:
        if self._opened is None:
            raise UsageError("this AsyncLLM is shut down; make a new one")
        return self._opened


def _ask(model: OpenModel, name: str, asked: Asked) -> tuple[GrowingOutput, AwaitingAsker]:
    is_streamed = asked.params.output_kind is not RequestOutputKind.FINAL_ONLY
    made = make_requests(model, asked, 0, key=name)
    requests = [replace(request, is_streamed=is_streamed, name=name) for request in made]
    output = GrowingOutput(model, name, asked, requests)
    return output, AwaitingAsker(requests, model.text.stop_found)
