"""What a body says beside its prompt: on most lines of a job the same, so it is understood once."""

import marshal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from glinthawk.core.limits import Limits
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.structured_outputs import StructuredOutputsParams
from glinthawk.jobs.body import Body, ChatBody, CompletionBody, read_body, sampling_params
from glinthawk.jobs.conversation import Conversation, read_conversation
from glinthawk.jobs.line_envelope import Kind
from glinthawk.jobs.line_rules import LineRules
from glinthawk.jobs.structured_fields import find_structured
from glinthawk.jobs.text import Text
from glinthawk.jobs.tools.tool_fields import ToolWish, constrain_calls, read_tools

__all__ = ["Terms", "TermsReader"]

#: So many terms are remembered, if they are written in so many bytes.
_MOST_KNOWN, _MOST_BYTES = 256, 4096
#: Of marshal's: the last in which what is written depends on nothing but values and types.
_VERSION = 2


@dataclass(frozen=True)
class Terms:
    """Of answers to a ``body`` that is without prompt and messages."""

    body: ChatBody | CompletionBody
    #: What answers, as the answer calls it, and the number of its adapter.
    model: str
    adapter: int
    params: SamplingParams
    tools: ToolWish | None = None

    @cached_property
    def conversation(self) -> Conversation:
        """Of a chat, without messages. Raises RequestError."""
        assert isinstance(self.body, ChatBody)
        return read_conversation(self.body)

    @cached_property
    def marked_params(self) -> SamplingParams:
        """Where marks must be found in the text, which may be special tokens."""
        return replace(self.params, skip_special_tokens=False)


class TermsReader:
    """What terms are read against: as of ``LineReader``, whose ``find_model`` says what answers a
    body."""

    def __init__(
        self,
        text: Text,
        limits: Limits,
        rules: LineRules,
        defaults: Mapping[str, Any],
        params: SamplingParams | None,
        find_model: Callable[[Body], tuple[str, int]],
    ) -> None:
        self._text, self._limits, self._rules = text, limits, rules
        self._defaults, self._given_params = defaults, params
        self._find_model = find_model
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
        model, adapter = self._find_model(body)
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
        return Terms(body, model, adapter, params, tools)

    def _params(
        self, body: ChatBody | CompletionBody, forced: StructuredOutputsParams | None
    ) -> SamplingParams:
        own = self._given_params
        if own is None:
            return sampling_params(body, self._defaults, forced)
        return replace(own, structured_outputs=forced) if forced else own


def _written(kind: Kind, rest: dict[str, Any]) -> bytes | None:
    """The same for the same alone: 1, 1.0 and true differ. None for what is nested too deeply, or
    no JSON."""
    try:
        return marshal.dumps((kind, rest), _VERSION)
    except ValueError:
        return None
