"""What a body says beside its prompt: on most lines of a job the same, so it is understood once."""

import marshal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from glinthawk.core.errors import RequestError
from glinthawk.core.limits import Limits
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.structured_outputs import StructuredOutputsParams, Thoughts
from glinthawk.jobs.body import Body, ChatBody, CompletionBody, read_body, sampling_params
from glinthawk.jobs.conversation import Conversation, read_conversation
from glinthawk.jobs.line_envelope import Kind
from glinthawk.jobs.line_rules import LineRules
from glinthawk.jobs.pooling_bodies import PoolingBody
from glinthawk.jobs.structured_fields import find_structured
from glinthawk.jobs.text import Text
from glinthawk.jobs.tools.tool_fields import ToolWish, constrain_calls, read_tools

__all__ = ["Terms", "TermsReader", "find_adapter"]

#: So many terms are remembered, if they are written in so many bytes.
_MOST_KNOWN, _MOST_BYTES = 256, 4096
#: Of marshal's: the last in which what is written depends on nothing but values and types.
_VERSION = 2


@dataclass(frozen=True)
class Terms:
    """Of answers to a ``body`` that is without prompt and messages."""

    body: ChatBody | CompletionBody
    params: SamplingParams
    tools: ToolWish | None = None
    #: Number of the LoRA adapter that is asked for; 0: none.
    adapter: int = 0

    @cached_property
    def conversation(self) -> Conversation:
        """Of a chat, without messages. Raises RequestError."""
        assert isinstance(self.body, ChatBody)
        return read_conversation(self.body)

    @cached_property
    def marked_params(self) -> SamplingParams:
        """Where marks must be found in the text, which may be special tokens."""
        return replace(self.params, skip_special_tokens=False)

    @cached_property
    def _behind(self) -> dict[Thoughts, SamplingParams]:
        return {}

    def params_behind(self, thoughts: Thoughts) -> SamplingParams:
        """The same, with a structure that begins behind ``thoughts``."""
        if thoughts not in self._behind:
            wanted = self.params.structured_outputs
            assert wanted is not None
            held = replace(wanted, thoughts=thoughts)
            self._behind[thoughts] = replace(self.marked_params, structured_outputs=held)
        return self._behind[thoughts]


class TermsReader:
    """What terms are read against: as of ``LineReader``."""

    def __init__(
        self,
        text: Text,
        limits: Limits,
        rules: LineRules,
        defaults: Mapping[str, Any],
        params: SamplingParams | None,
        adapters: tuple[str, ...] = (),
    ) -> None:
        self._text, self._limits, self._rules, self._adapters = text, limits, rules, adapters
        self._defaults, self._given_params = defaults, params
        self._known: dict[bytes, Terms] = {}

    def read(self, kind: Kind, given: object) -> tuple[Terms, object]:
        """Of the body ``given``, and its prompt or its messages, unchecked. Raises RequestError."""
        if not isinstance(given, dict):
            return self.understand(kind, given), None
        rest = given.copy()
        said = rest.pop("prompt" if kind == "completion" else "messages", None)
        key = _written(kind, rest)
        terms = self._known.get(key) if key else None
        if terms is None:
            terms = self.understand(kind, rest)
            self._remember(key, terms)
        return terms, said

    def _remember(self, key: bytes | None, terms: Terms) -> None:
        if key is not None and len(key) <= _MOST_BYTES:
            if len(self._known) == _MOST_KNOWN:
                # Where every line has terms of its own, none is worth keeping.
                self._known.clear()
            self._known[key] = terms

    def understand(self, kind: Kind, given: object) -> Terms:
        """Of a body that nothing is known of. Raises RequestError."""
        body = read_body(kind, given, strict=self._rules.strict)
        adapter = find_adapter(body, self._rules, self._adapters)
        tools = read_tools(body) if isinstance(body, ChatBody) else None
        forced = constrain_calls(tools, body) if isinstance(body, ChatBody) else None
        params = self._params(body, forced)
        self._limits.check_tokens(params)
        if params.stop:
            self._text.require_stop_strings()
        self._text.bad_tokens(params)
        if params.structured_outputs is not None:
            name = "tools" if forced else find_structured(body) or "structured_outputs"
            self._text.require_grammar(params.structured_outputs, name)
        return Terms(body, params, tools, adapter)

    def _params(
        self, body: ChatBody | CompletionBody, forced: StructuredOutputsParams | None
    ) -> SamplingParams:
        own = self._given_params
        if own is None:
            return sampling_params(body, self._defaults, forced)
        return replace(own, structured_outputs=forced) if forced else own


def find_adapter(body: Body | PoolingBody, rules: LineRules, adapters: tuple[str, ...]) -> int:
    """The number of the one of ``adapters`` that ``body`` asks for, from 1; 0: the model itself.
    Raises RequestError where another model is asked for than answers."""
    if body.model in adapters:
        return adapters.index(body.model) + 1
    served = rules.served_model_name
    if served is not None and body.model not in (None, served):
        names = " or ".join(repr(name) for name in (served, *adapters))
        raise RequestError(
            f"model is {body.model!r}, and {names} answers; correct it, or leave it out",
            param="model",
            code="model_not_found",
        )
    return 0


def _written(kind: Kind, rest: dict[str, Any]) -> bytes | None:
    """The same for the same alone: 1, 1.0 and true differ. None for what is nested too deeply, or
    no JSON."""
    try:
        return marshal.dumps((kind, rest), _VERSION)
    except ValueError:
        return None
