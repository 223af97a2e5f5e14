"""A model's chat template: from a conversation to the prompt that the model was trained on."""

from datetime import datetime
from functools import cached_property, lru_cache
from typing import Any

from glinthawk.core.errors import RequestError
from glinthawk.jobs.chat_messages import read_messages
from glinthawk.jobs.conversation import Conversation
from glinthawk.jobs.dates import fix_date
from glinthawk.jobs.forms import ContentForms
from glinthawk.jobs.tools.told_tools import tell_tools

__all__ = ["ChatTemplate"]

_Message = dict[str, Any]

_MARKER = "glinthawkmarker"
#: What takes the place of a role that the template does not know.
_ROLES = {"developer": "system"}


class ChatTemplate:
    """That of ``tokenizer``, which has one. ``now`` is the date that it says."""

    def __init__(self, tokenizer: Any, now: datetime) -> None:
        self._tokenizer = tokenizer
        self._now = now
        self._source = lru_cache(maxsize=2)(self._read_source)

    @property
    def text(self) -> str:
        """What it says where there are tools."""
        return self._source(True)

    @cached_property
    def knows_tools(self) -> bool:
        """Whether tools that are handed to it come into the prompt."""
        tool = {"name": _MARKER, "description": "", "parameters": {"properties": {}}}
        said = Conversation(messages=(), tools=[{"type": "function", "function": tool}])
        try:
            form = self._forms.fit([{"role": "user", "content": "a"}])
            return _MARKER in str(self._call(form, said, tokenize=False))
        except Exception:
            # The template is a program that came with the model: it may fail in any way it likes.
            return False

    def prepare(self, said: Conversation) -> list[_Message]:
        """The messages, checked, as this template takes them. Raises RequestError."""
        messages = read_messages(said.messages)
        if _speaks_of_tools(messages, said) and not self.knows_tools:
            messages = tell_tools(messages, said.tools)
        if "developer" not in self.text:
            for message in messages:
                message["role"] = _ROLES.get(message["role"], message["role"])
        try:
            return self._forms.fit(messages)
        except RequestError:
            raise
        except Exception as error:
            raise _refused(error) from error

    def render(self, messages: list[_Message], said: Conversation) -> str:
        """The prompt's text, of ``messages`` that were prepared."""
        return str(self._apply(messages, said, tokenize=False))

    def encode(self, messages: list[_Message], said: Conversation) -> tuple[int, ...]:
        """The prompt's token ids."""
        return tuple(self._apply(messages, said, tokenize=True))

    @cached_property
    def _forms(self) -> ContentForms:
        plain = Conversation(messages=())
        return ContentForms(lambda messages: str(self._call(messages, plain, tokenize=False)))

    def _read_source(self, with_tools: bool) -> str:
        try:
            source = self._tokenizer.get_chat_template(tools=[{}] if with_tools else None)
        except ValueError as error:
            raise _refused(error) from error
        return fix_date(source, self._now)

    def _apply(self, messages: list[_Message], said: Conversation, *, tokenize: bool) -> Any:
        try:
            return self._call(messages, said, tokenize=tokenize)
        except Exception as error:
            # The template is a program that came with the model: it may fail in any way it likes.
            raise _refused(error) from error

    def _call(self, messages: list[_Message], said: Conversation, *, tokenize: bool) -> Any:
        return self._tokenizer.apply_chat_template(
            messages,
            tools=said.tools,
            documents=said.documents,
            chat_template=self._source(bool(said.tools)),
            add_generation_prompt=said.add_generation_prompt,
            continue_final_message=said.continue_final_message,
            tokenize=tokenize,
            return_dict=False,
            tokenizer_kwargs={"verbose": False},
            **said.extras,
        )


def _speaks_of_tools(messages: list[_Message], said: Conversation) -> bool:
    if said.tools:
        return True
    return any(one["role"] == "tool" or "tool_calls" in one for one in messages)


def _refused(error: Exception) -> RequestError:
    return RequestError(
        f"the chat template refused the messages ({error}); check roles and their order",
        param="messages",
    )
