"""One line of the input: what it asks for, or why it cannot be answered."""

from dataclasses import dataclass
from typing import Any

import msgspec

from glinthawk.core.errors import RequestError
from glinthawk.core.limits import Limits
from glinthawk.core.nearest import advise_name
from glinthawk.core.sampling import SamplingParams
from glinthawk.jobs.body import Body, ChatBody, CompletionBody, Kind, read_body, sampling_params
from glinthawk.jobs.prompts import Prompt, read_prompts
from glinthawk.jobs.structured_fields import find_structured
from glinthawk.jobs.text import Text

__all__ = ["LineReader", "Refusal", "Task", "read_custom_id"]

_KINDS: dict[str, Kind] = {"/v1/chat/completions": "chat", "/v1/completions": "completion"}
_FIELDS = ("custom_id", "method", "url", "body")


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
    """What lines are read against. ``model_name`` is what answers to lines without a model say."""

    text: Text
    limits: Limits
    model_name: str

    def read(self, line: int, raw: bytes) -> Task | Refusal:
        """Never raises: whatever is wrong with a line is that line's result."""
        custom_id = read_custom_id(raw)
        try:
            return self._task(line, _envelope(raw), custom_id)
        except RequestError as error:
            return Refusal(line, custom_id, error)

    def _task(self, line: int, envelope: dict[str, Any], custom_id: str | None) -> Task:
        if custom_id is None:
            raise RequestError("custom_id must be a string; give each line one", param="custom_id")
        kind = _kind(envelope)
        body = read_body(kind, envelope.get("body"))
        params = sampling_params(body)
        self._check_tokens(params)
        self._check_structured(body, params)
        return Task(
            line=line,
            custom_id=custom_id,
            kind=kind,
            model=body.model or self.model_name,
            prompts=self._prompts(body, params.max_tokens),
            params=params,
            return_token_ids=bool(body.return_token_ids),
            echo=isinstance(body, CompletionBody) and bool(body.echo),
            prompt_logprobs=body.prompt_logprobs,
        )

    def _check_tokens(self, params: SamplingParams) -> None:
        if params.stop:
            self.text.require_stop_strings()
        vocab_size = self.limits.vocab_size
        for name in ("stop_token_ids", "logit_bias"):
            for token in getattr(params, name):
                if not 0 <= token < vocab_size:
                    raise RequestError(
                        f"{name}: {token} is not in the vocabulary (0 to {vocab_size - 1})",
                        param=name,
                    )

    def _check_structured(self, body: Body, params: SamplingParams) -> None:
        wanted, name = params.structured_outputs, find_structured(body)
        if wanted is not None and name is not None:
            self.text.require_grammar(wanted, name)

    def _prompts(self, body: Body, max_tokens: int | None) -> tuple[Prompt, ...]:
        if isinstance(body, ChatBody):
            ids = self.text.encode_chat(body.messages, self.limits.max_model_len)
            return (Prompt(ids, self.limits.max_tokens(ids, max_tokens)),)
        assert isinstance(body, CompletionBody)
        return read_prompts(body.prompt, self.text, self.limits, max_tokens)


def _envelope(raw: bytes) -> dict[str, Any]:
    try:
        envelope = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(
            f"the line is not JSON ({error}); write one object a line", code="invalid_json_line"
        ) from error
    except RecursionError as error:
        raise RequestError(
            "the line is nested too deeply; write it as in the README", code="invalid_json_line"
        ) from error
    if not isinstance(envelope, dict):
        raise RequestError(
            f"the line must be an object with {', '.join(_FIELDS)}", code="invalid_json_line"
        )
    for name, value in envelope.items():
        if name not in _FIELDS and value is not None:
            raise RequestError(
                f"{name} is not supported; "
                + advise_name(name, _FIELDS, f"remove it. A line has {', '.join(_FIELDS)}"),
                param=name,
                code="unsupported_field",
            )
    return envelope


def _kind(envelope: dict[str, Any]) -> Kind:
    if envelope.get("method") != "POST":
        raise RequestError('method must be "POST"; correct it', param="method")
    url = envelope.get("url")
    if not isinstance(url, str) or url not in _KINDS:
        raise RequestError(
            f"url must be {' or '.join(_KINDS)}; correct it", param="url", code="invalid_url"
        )
    return _KINDS[url]
