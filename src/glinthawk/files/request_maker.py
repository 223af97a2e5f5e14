"""A row of a table becomes a line of a batch file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import msgspec

from glinthawk.core.errors import RequestError, UsageError
from glinthawk.jobs.body import ChatBody, CompletionBody, read_form
from glinthawk.jobs.pooling_bodies import EmbeddingBody

__all__ = ["RequestMaker", "TableOptions"]

_URLS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
}
_FORMS: dict[str, type[msgspec.Struct]] = {
    "chat": ChatBody,
    "completions": CompletionBody,
    "embeddings": EmbeddingBody,
}
_WAYS = "--prompt-column, --messages-column or --template"
#: In a template, the whole row: for columns whose names are no words.
_ROW = "row"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOptions:
    """What a row is asked, and what of it that is. Raises UsageError where it does not fit."""

    prompt_column: str | None = None
    messages_column: str | None = None
    template: str | None = None
    id_column: str | None = None
    endpoint: str = "chat"
    body: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.endpoint not in _URLS:
            raise UsageError(f"--endpoint is one of {', '.join(_URLS)}, not {self.endpoint!r}")
        given = [self.prompt_column, self.messages_column, self.template]
        num_given = sum(one is not None for one in given)
        if num_given > 1:
            raise UsageError(f"give one of {_WAYS}")
        if not num_given and (self.id_column or self.body or self.endpoint != "chat"):
            raise UsageError(
                f"--id-column, --body and other fields of a body go with {_WAYS}; lines of a batch "
                "file bring their own"
            )
        if self.messages_column and self.endpoint == "completions":
            raise UsageError("messages are a chat; leave --endpoint out with --messages-column")
        _check_body(self.endpoint, self.body)

    @property
    def is_given(self) -> bool:
        """Whether the input is a table."""
        return bool(self.prompt_column or self.messages_column or self.template is not None)

    def describe(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return asdict(self)


def _check_body(endpoint: str, body: Mapping[str, Any]) -> None:
    for name in {"messages", "prompt", "input"} & body.keys():
        raise UsageError(f"--body: {name} comes of each row; remove it there")
    try:
        read_form(_FORMS[endpoint], dict(body))
    except RequestError as error:
        raise UsageError(f"--body: {error}") from error


class RequestMaker:
    """Makes lines as ``options`` say."""

    def __init__(self, options: TableOptions) -> None:
        assert options.is_given
        self._options = options
        self._url = _URLS[options.endpoint]

    @cached_property
    def _template(self) -> Any:
        from jinja2 import StrictUndefined, TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
        try:
            return environment.from_string(self._options.template or "")
        except TemplateError as error:
            reason = str(error).rstrip(".")
            raise UsageError(f"--template: {reason}; correct it") from error

    @cached_property
    def columns(self) -> frozenset[str] | None:
        """Those that are read where they are there; None if they may be any. Raises UsageError for
        a bad template."""
        options = self._options
        named = {options.prompt_column, options.messages_column, options.id_column} - {None}
        if options.template is not None:
            _ = self._template
            words = _free_words(options.template)
            if _ROW in words:
                return None
            named |= words
        return frozenset(name for name in named if name)

    def check_columns(self, there: tuple[str, ...], name: str) -> None:
        """Raise UsageError that names a column that is not ``there``."""
        missing = sorted((self.columns or frozenset()) - self._builtins - {*there})
        if missing:
            raise UsageError(
                f"{name} has no column {missing[0]}; its columns are {', '.join(there)}"
            )

    @cached_property
    def _builtins(self) -> set[str]:
        """Words that Jinja itself gives a meaning, like ``range``, where no column has the name."""
        options = self._options
        if options.template is None:
            return set()
        return {*self._template.environment.globals} - {options.id_column}

    def make(self, number: int, row: Mapping[str, Any]) -> bytes:
        """The line of row ``number`` of all, from 0. What it says is checked as in any line."""
        options = self._options
        custom_id = row.get(options.id_column) if options.id_column else number
        line = {
            "custom_id": None if custom_id is None else str(custom_id),
            "method": "POST",
            "url": self._url,
            "body": {**self._asked(number, row), **options.body},
        }
        return msgspec.json.encode(line, enc_hook=str) + b"\n"

    def _asked(self, number: int, row: Mapping[str, Any]) -> dict[str, Any]:
        options = self._options
        if options.messages_column is not None:
            return {"messages": _messages(row.get(options.messages_column))}
        if options.prompt_column is not None:
            value = row.get(options.prompt_column)
            prompt = value if value is None or isinstance(value, list | str) else str(value)
        else:
            prompt = self._render(number, row)
        if options.endpoint != "chat":
            return {"prompt" if options.endpoint == "completions" else "input": prompt}
        return {"messages": [{"role": "user", "content": prompt}]}

    def _render(self, number: int, row: Mapping[str, Any]) -> str:
        template = self._template
        words = {**template.environment.globals, **row, _ROW: row}
        try:
            # As `render` does, which copies all globals anew for every row, at a snail's pace.
            context = template.new_context(words, shared=True)
            return str(template.environment.concat(template.root_render_func(context)))
        except Exception as error:  # a template may do whatever it likes with a value
            raise UsageError(f"--template: row {number}: {error}; correct it") from error


def _free_words(template: str) -> set[str]:
    from jinja2 import Environment
    from jinja2.meta import find_undeclared_variables

    environment = Environment()  # parses, and runs nothing
    environment.globals.clear()  # else words in it do not count
    return set(find_undeclared_variables(environment.parse(template)))


def _messages(value: Any) -> Any:
    """A list, or its JSON. Columns of Arrow have every field in every message: those that a
    message leaves out are null."""
    if isinstance(value, str):
        try:
            return msgspec.json.decode(value)
        except msgspec.DecodeError:
            return value
    if not isinstance(value, list):
        return value
    return [
        {name: part for name, part in message.items() if part is not None}
        if isinstance(message, dict)
        else message
        for message in value
    ]
