"""Answers of /v1/chat/completions and /v1/completions as they are streamed: server-sent events."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import msgspec

from glinthawk.serve.growing_reply import ReplyDelta

__all__ = ["ChatEvents", "CompletionEvents", "Event", "StreamForm", "write_event"]

#: The body of an event, with ``type`` where events have names.
Event = dict[str, Any]


def write_event(event: Event) -> bytes:
    """As it goes over the wire."""
    name = f"event: {event['type']}\n".encode() if "type" in event else b""
    return b"%sdata: %s\n\n" % (name, msgspec.json.encode(event))


class StreamForm(Protocol):
    """How one API streams."""

    #: What stands after all events.
    last: bytes

    def begin(self) -> Iterator[Event]:
        """Before anything is known of the answer."""
        ...

    def grow(self, index: int, delta: ReplyDelta) -> Iterator[Event]:
        """More of a choice."""
        ...

    def end(self, body: Mapping[str, Any], rests: list[ReplyDelta]) -> Iterator[Event]:
        """The answer is whole: ``body`` is what would have been answered without streaming, and
        ``rests`` what of each choice was not shown."""
        ...


class ChatEvents:
    """Chunks of a chat."""

    last = b"data: [DONE]\n\n"

    def __init__(self, head: Mapping[str, Any], num_choices: int, with_usage: bool) -> None:
        self._head = {**head, "object": "chat.completion.chunk"}
        self._num_choices, self._with_usage = num_choices, with_usage

    def begin(self) -> Iterator[Event]:
        for index in range(self._num_choices):
            yield self._chunk(index, {"role": "assistant", "content": ""})

    def grow(self, index: int, delta: ReplyDelta) -> Iterator[Event]:
        if delta.reasoning:
            yield self._chunk(index, {"reasoning_content": delta.reasoning})
        if delta.content:
            yield self._chunk(index, {"content": delta.content})

    def end(self, body: Mapping[str, Any], rests: list[ReplyDelta]) -> Iterator[Event]:
        for index, (choice, rest) in enumerate(zip(body["choices"], rests, strict=True)):
            yield from self.grow(index, rest)
            calls = choice["message"].get("tool_calls")
            if calls:
                numbered = [{"index": number, **call} for number, call in enumerate(calls)]
                yield self._chunk(index, {"tool_calls": numbered})
            ending = {name: choice[name] for name in choice if name not in ("index", "message")}
            yield self._chunk(index, {}, ending)
        if self._with_usage:
            yield {**self._head, "choices": [], "usage": body["usage"]}

    def _chunk(
        self, index: int, delta: dict[str, Any], ending: Mapping[str, Any] | None = None
    ) -> Event:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        return {**self._head, "choices": [{**choice, **(ending or {})}]}


class CompletionEvents:
    """Chunks of a completion."""

    last = b"data: [DONE]\n\n"

    def __init__(self, head: Mapping[str, Any], with_usage: bool) -> None:
        self._head = {**head, "object": "text_completion"}
        self._with_usage = with_usage

    def begin(self) -> Iterator[Event]:
        yield from ()

    def grow(self, index: int, delta: ReplyDelta) -> Iterator[Event]:
        if delta.content:
            yield self._chunk({"index": index, "text": delta.content})

    def end(self, body: Mapping[str, Any], rests: list[ReplyDelta]) -> Iterator[Event]:
        for choice, rest in zip(body["choices"], rests, strict=True):
            yield self._chunk({**choice, "text": rest.content})
        if self._with_usage:
            yield {**self._head, "choices": [], "usage": body["usage"]}

    def _chunk(self, choice: dict[str, Any]) -> Event:
        return {**self._head, "choices": [{"logprobs": None, "finish_reason": None} | choice]}
