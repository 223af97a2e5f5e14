"""One line of the input: what it asks for, or why it cannot be answered."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from glinthawk.core.errors import RequestError
from glinthawk.core.limits import Limits
from glinthawk.core.sampling import SamplingParams
from glinthawk.jobs.body import ChatBody, CompletionBody, read_form
from glinthawk.jobs.broken_lines import salvage_custom_id
from glinthawk.jobs.line_envelope import Kind, find_kind, read_envelope, read_kind, read_plain
from glinthawk.jobs.line_rules import LineRules
from glinthawk.jobs.pooling_bodies import EmbeddingBody, PoolingBody, RankingBody, ScoreBody
from glinthawk.jobs.pooling_prompts import Asked, PoolingReader
from glinthawk.jobs.pooling_wish import PoolingWish
from glinthawk.jobs.prompts import Prompt, fit_prompt, read_prompts
from glinthawk.jobs.replies import ReplyForm
from glinthawk.jobs.reply_forms import choose_reply_form, find_thoughts
from glinthawk.jobs.responses import chat_body, to_response_name
from glinthawk.jobs.terms import Terms, TermsReader, find_adapter
from glinthawk.jobs.text import Text
from glinthawk.tokens.pooler import Pooler

__all__ = ["LineReader", "Refusal", "Task", "read_call", "read_custom_id", "refuse_line"]

_PLAIN = ReplyForm()


class Task(msgspec.Struct, frozen=True):
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
    reply: ReplyForm = _PLAIN
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


def read_call(raw: bytes) -> tuple[str, Kind, object]:
    """The line's custom_id, what it is for, and its body. Raises RequestError."""
    if (plain := read_plain(raw)) is not None:
        return plain.custom_id, find_kind(plain.url), plain.body
    envelope = read_envelope(raw)
    custom_id = read_custom_id(raw)
    if custom_id is None:
        raise RequestError("custom_id must be a string; give each line one", param="custom_id")
    return custom_id, read_kind(envelope), envelope.get("body")


def refuse_line(line: int, raw: bytes, error: RequestError) -> Refusal:
    """With its custom_id, if one can be read of it."""
    return Refusal(line, read_custom_id(raw) or salvage_custom_id(raw), error)


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
    _terms: TermsReader = field(init=False)

    def __post_init__(self) -> None:
        terms = TermsReader(
            self.text, self.limits, self.rules, self.defaults, self.params, self.adapters
        )
        object.__setattr__(self, "_terms", terms)

    def read(self, line: int, raw: bytes) -> Task | Refusal:
        """Never raises: whatever is wrong with a line is that line's result."""
        try:
            return self.ask(line, *read_call(raw))
        except RequestError as error:
            return refuse_line(line, raw, error)

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
        return msgspec.structs.replace(task, reply=replace(task.reply, echoed=echoed))

    def _asked(self, line: int, custom_id: str, kind: Kind, given: object) -> Task:
        terms, said = self._terms.read(kind, given)
        body, params = terms.body, terms.params
        prompts = self._prompts(terms, said)
        reply = self._reply_form(terms, prompts[0])
        if (reply.tools or reply.reasoning) and params.skip_special_tokens:
            # Marks may be special tokens.
            reply = replace(reply, hides_special=True)
            params = terms.marked_params
        if (thoughts := find_thoughts(reply)) is not None:
            params = terms.params_behind(thoughts)
        return Task(
            line=line,
            custom_id=custom_id,
            kind=kind,
            model=self._name(terms.adapter),
            prompts=prompts,
            params=params,
            return_token_ids=bool(body.return_token_ids),
            echo=isinstance(body, CompletionBody) and bool(body.echo),
            prompt_logprobs=(self.params or body).prompt_logprobs,
            reply=reply,
            adapter=terms.adapter,
        )

    def _pooled(self, line: int, custom_id: str, kind: Kind, given: object) -> Task:
        form, read = _POOLED[kind]
        body = read_form(form, given, strict=self.rules.strict)
        adapter = find_adapter(body, self.rules, self.adapters)
        pooler = self.pooler.scoring_by(self.rules.reranker)
        prompts, wish = read(PoolingReader(self.text, self.limits, pooler), body)
        model = self._name(adapter)
        return Task(line, custom_id, kind, model, prompts, _NO_ANSWER, wish=wish, adapter=adapter)

    def _name(self, adapter: int) -> str:
        """Of what answers, as answers say it."""
        if adapter:
            return self.adapters[adapter - 1]
        return self.rules.served_model_name or self.model_name

    def _prompts(self, terms: Terms, said: object) -> tuple[Prompt, ...]:
        params = terms.params
        if isinstance(terms.body, CompletionBody):
            return read_prompts(said, self.text, self.limits, params)
        talk = replace(terms.conversation, messages=said)
        ids = self.text.encode_chat(talk, self.limits.longest_prompt(params))
        return (fit_prompt(ids, self.limits, params),)

    def _reply_form(self, terms: Terms, prompt: Prompt) -> ReplyForm:
        if not isinstance(terms.body, ChatBody):
            return _PLAIN
        wanted = terms.params.structured_outputs
        structure = None if wanted is None else wanted.kind
        return choose_reply_form(
            self.text, prompt.ids, self.rules, terms.tools, structure=structure
        )


def _renamed(error: RequestError) -> RequestError:
    """What is wrong with a chat, in the words of /v1/responses."""
    name = error.param or ""
    own = to_response_name(name)
    said = str(error) if own == name else str(error).replace(name, own)
    return RequestError(said, param=own or None, code=error.code)
