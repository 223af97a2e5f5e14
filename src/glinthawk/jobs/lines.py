"""One line of the input: what it asks for, or why it cannot be answered."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from glinthawk.core.errors import RequestError
from glinthawk.core.limits import Limits
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.structured_outputs import StructuredOutputsParams
from glinthawk.jobs.body import (
    Body,
    ChatBody,
    CompletionBody,
    read_body,
    read_form,
    sampling_params,
)
from glinthawk.jobs.broken_lines import salvage_custom_id
from glinthawk.jobs.conversation import read_conversation
from glinthawk.jobs.line_envelope import Kind, read_envelope, read_kind
from glinthawk.jobs.line_rules import LineRules
from glinthawk.jobs.pooling_bodies import EmbeddingBody, PoolingBody, RankingBody, ScoreBody
from glinthawk.jobs.pooling_prompts import Asked, PoolingReader
from glinthawk.jobs.pooling_wish import PoolingWish
from glinthawk.jobs.prompts import Prompt, fit_prompt, read_prompts
from glinthawk.jobs.replies import ReplyForm
from glinthawk.jobs.reply_forms import choose_reply_form
from glinthawk.jobs.responses import chat_body, to_response_name
from glinthawk.jobs.structured_fields import find_structured
from glinthawk.jobs.text import Text
from glinthawk.jobs.tools.tool_fields import ToolWish, constrain_calls, read_tools
from glinthawk.tokens.pooler import Pooler

__all__ = ["LineReader", "Refusal", "Task", "read_custom_id"]


@dataclass(frozen=True, slots=True)
class Task:
    """A line that can be answered. ``line`` counts from 0. It has ``n`` choices for each of its
    prompts: choice ``i`` is an answer to prompt ``i // n``."""

    line: int
    custom_id: str
    kind: Kind
    model: str
    prompts: tuple[Prompt, ...]
    params: SamplingParams
    return_token_ids: bool = False
    #: Whether answers begin with their prompts.
    echo: bool = False
    #: Alternatives to report for each token of a prompt; None: nothing.
    prompt_logprobs: int | None = None
    #: How the text of a chat's answer is read.
    reply: ReplyForm = field(default_factory=ReplyForm)
    #: What is made of its prompts, where no text is.
    wish: PoolingWish | None = None
    #: Number of the LoRA adapter that it asks for; 0: none.
    adapter: int = 0

    @property
    def num_choices(self) -> int:
        """Of all prompts together."""
        return len(self.prompts) * self.params.n

    def prompt_of(self, choice: int) -> Prompt:
        """What the choice answers."""
        return self.prompts[choice // self.params.n]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A line that cannot be answered. ``custom_id`` is None where none could be read."""

    line: int
    custom_id: str | None
    error: RequestError


#: What is asked of nodes in place of an answer goes by no rules of sampling.
_NO_ANSWER = SamplingParams(max_tokens=0, temperature=0)
_POOLED: dict[str, tuple[type[PoolingBody], Callable[[PoolingReader, Any], Asked]]] = {
    "embedding": (EmbeddingBody, PoolingReader.read_embeddings),
    "score": (ScoreBody, PoolingReader.read_scores),
    "ranking": (RankingBody, PoolingReader.read_ranking),
}


class _Named(msgspec.Struct):
    custom_id: str


_named = msgspec.json.Decoder(_Named)


def read_custom_id(raw: bytes) -> str | None:
    """The line's custom_id, without building the rest of it; None where there is none."""
    try:
        return _named.decode(raw).custom_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


@dataclass(frozen=True, slots=True)
class LineReader:
    """What lines are read against. ``model_name`` is what answers; ``defaults`` are of sampling
    parameters that a line leaves out, and ``params`` stand in place of what all lines say. Lines
    whose model is one of ``adapters`` take that one."""

    text: Text
    limits: Limits
    model_name: str
    rules: LineRules = field(default_factory=LineRules)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    pooler: Pooler = field(default_factory=Pooler)
    params: SamplingParams | None = None
    adapters: tuple[str, ...] = ()

    def read(self, line: int, raw: bytes) -> Task | Refusal:
        """Never raises: whatever is wrong with a line is that line's result."""
        custom_id = read_custom_id(raw)
        try:
            envelope = read_envelope(raw)
            if custom_id is None:
                raise RequestError(
                    "custom_id must be a string; give each line one", param="custom_id"
                )
            return self.ask(line, custom_id, read_kind(envelope), envelope.get("body"))
        except RequestError as error:
            return Refusal(line, custom_id or salvage_custom_id(raw), error)

    def ask(self, line: int, custom_id: str, kind: Kind, body: object) -> Task:
        """What ``body`` asks for. Raises RequestError."""
        if kind in _POOLED:
            return self._pooled(line, custom_id, kind, body)
        self.pooler.require_head()
        if kind != "response":
            return self._asked(line, custom_id, kind, body)
        body, echoed = chat_body(body)
        try:
            task = self._asked(line, custom_id, kind, body)
        except RequestError as error:
            raise _renamed(error) from error
        return replace(task, reply=replace(task.reply, echoed=echoed))

    def _asked(self, line: int, custom_id: str, kind: Kind, given: object) -> Task:
        body = read_body(kind, given, strict=self.rules.strict)
        model, adapter = self._find_model(body)
        tools = read_tools(body) if isinstance(body, ChatBody) else None
        forced = constrain_calls(tools, body) if isinstance(body, ChatBody) else None
        params = self._params(body, forced)
        self.limits.check_tokens(params)
        if params.stop:
            self.text.require_stop_strings()
        self.text.bad_tokens(params)
        if params.structured_outputs is not None:
            name = "tools" if forced else find_structured(body) or "structured_outputs"
            self.text.require_grammar(params.structured_outputs, name)
        prompts = self._prompts(body, params)
        reply = self._reply_form(body, prompts[0], params, tools)
        if (reply.tools or reply.reasoning) and params.skip_special_tokens:
            # Marks may be special tokens.
            reply = replace(reply, hides_special=True)
            params = replace(params, skip_special_tokens=False)
        return Task(
            line=line,
            custom_id=custom_id,
            kind=kind,
            model=model,
            prompts=prompts,
            params=params,
            return_token_ids=bool(body.return_token_ids),
            echo=isinstance(body, CompletionBody) and bool(body.echo),
            prompt_logprobs=(self.params or body).prompt_logprobs,
            reply=reply,
            adapter=adapter,
        )

    def _pooled(self, line: int, custom_id: str, kind: Kind, given: object) -> Task:
        form, read = _POOLED[kind]
        body = read_form(form, given, strict=self.rules.strict)
        model, adapter = self._find_model(body)
        pooler = self.pooler.scoring_by(self.rules.reranker)
        prompts, wish = read(PoolingReader(self.text, self.limits, pooler), body)
        return Task(line, custom_id, kind, model, prompts, _NO_ANSWER, wish=wish, adapter=adapter)

    def _params(
        self, body: ChatBody | CompletionBody, forced: StructuredOutputsParams | None
    ) -> SamplingParams:
        if self.params is None:
            return sampling_params(body, self.defaults, forced)
        return replace(self.params, structured_outputs=forced) if forced else self.params

    def _find_model(self, body: Body | PoolingBody) -> tuple[str, int]:
        """What answers, as the answer calls it, and the number of its adapter."""
        if body.model in self.adapters:
            return body.model, self.adapters.index(body.model) + 1
        served = self.rules.served_model_name
        if served is not None and body.model not in (None, served):
            names = " or ".join(repr(name) for name in (served, *self.adapters))
            raise RequestError(
                f"model is {body.model!r}, and {names} answers; correct it, or leave it out",
                param="model",
                code="model_not_found",
            )
        return served or self.model_name, 0

    def _prompts(
        self, body: ChatBody | CompletionBody, params: SamplingParams
    ) -> tuple[Prompt, ...]:
        if isinstance(body, CompletionBody):
            return read_prompts(body.prompt, self.text, self.limits, params)
        ids = self.text.encode_chat(read_conversation(body), self.limits.longest_prompt(params))
        return (fit_prompt(ids, self.limits, params),)

    def _reply_form(
        self, body: Body, prompt: Prompt, params: SamplingParams, tools: ToolWish | None
    ) -> ReplyForm:
        if not isinstance(body, ChatBody):
            return ReplyForm()
        is_free = params.structured_outputs is None
        return choose_reply_form(self.text, prompt.ids, self.rules, tools, is_free=is_free)


def _renamed(error: RequestError) -> RequestError:
    """What is wrong with a chat, in the words of /v1/responses."""
    name = error.param or ""
    own = to_response_name(name)
    said = str(error) if own == name else str(error).replace(name, own)
    return RequestError(said, param=own or None, code=error.code)
