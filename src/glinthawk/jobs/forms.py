"""The form in which a chat template reads the content of messages: a string, or a list of parts."""

from collections.abc import Callable
from enum import Enum
from typing import Any

from glinthawk.core.errors import RequestError

__all__ = ["ContentForms"]

_Message = dict[str, Any]

#: Letters alone, which templates neither escape nor cut.
_MARKER = "glinthawkmarker"


class _Form(Enum):
    STRING = "string"
    PARTS = "parts"
    EITHER = "either"
    NEITHER = "neither"


class ContentForms:
    """Found out by rendering a marker both ways, role by role, and looking for it.

    ``render`` is the template: messages in, text out; it may raise anything.
    """

    def __init__(self, render: Callable[[list[_Message]], str]) -> None:
        self._render = render
        self._forms: dict[str, _Form] = {}

    def fit(self, messages: list[_Message]) -> list[_Message]:
        """``messages`` with every content in a form that the template reads."""
        return [
            {**message, "content": _shaped(message["content"], self._form(message["role"]))}
            for message in messages
        ]

    def _form(self, role: str) -> _Form:
        if role not in self._forms:
            self._forms[role] = self._find(role)
        form = self._forms[role]
        if form is not _Form.NEITHER:
            return form
        if role == "user":
            raise RequestError(
                "the model's chat template puts a user's text into the prompt neither as a string "
                "nor as a list of parts; use /v1/completions with the whole prompt, or repair "
                "chat_template",
                param="messages",
            )
        # A template may leave out a role by design.
        return self._form("user")

    def _find(self, role: str) -> _Form:
        found = [self._try(around) for around in self._surroundings(role)]
        told = [form for form in found if form is not None]
        if not told:
            # It raises for the true messages too, then, and says why.
            return _Form.STRING if role == "user" else self._form("user")
        return next((form for form in told if form is not _Form.NEITHER), _Form.NEITHER)

    def _surroundings(self, role: str) -> list[Callable[[Any], list[_Message]]]:
        """Conversations around a message of ``role``: templates are strict about their order."""

        def one(content: Any) -> _Message:
            return {"role": role, "content": content}

        if role == "user":
            system = {"role": "system", "content": "a"}
            return [lambda content: [one(content)], lambda content: [system, one(content)]]
        user = {"role": "user", "content": _shaped("a", self._form("user"))}
        return [
            lambda content: [one(content), user],
            lambda content: [user, one(content)],
            lambda content: [user, one(content), user],
        ]

    def _try(self, around: Callable[[Any], list[_Message]]) -> _Form | None:
        """The form that is read there, or None if the template raises for both."""
        string = self._rendered(around(_MARKER))
        parts = self._rendered(around(_shaped(_MARKER, _Form.PARTS)))
        if string is None and parts is None:
            return None
        if _holds(string):
            # A list that is written as Python writes it gives another text.
            return _Form.EITHER if parts == string else _Form.STRING
        return _Form.PARTS if _holds(parts) else _Form.NEITHER

    def _rendered(self, messages: list[_Message]) -> str | None:
        try:
            return self._render(messages)
        except Exception:
            # The template is a program that came with the model: it may fail in any way it likes.
            return None


def _holds(text: str | None) -> bool:
    return text is not None and _MARKER in text.casefold()


def _shaped(content: Any, form: _Form) -> Any:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if form is _Form.PARTS else content
    if form is not _Form.STRING:
        return content
    return _join([part["text"] for part in content])


def _join(texts: list[str]) -> str:
    """One part a line, as vLLM joins them; parts that meet at a space are one text already."""
    whole = ""
    for text in texts:
        meets = not whole or not text or whole[-1].isspace() or text[0].isspace()
        whole += text if meets else f"\n{text}"
    return whole
