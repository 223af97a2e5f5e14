"""Answers of /v1/responses as they are streamed: named events with numbers."""

from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from glinthawk.serve.growing_reply import ReplyDelta
from glinthawk.serve.stream_events import Event

__all__ = ["ResponseEvents"]

_KINDS = {"message": "output_text", "reasoning": "reasoning_text"}


class ResponseEvents:
    """An item for what was thought, if anything, then one for what is said."""

    last = b""

    def __init__(self, head: Mapping[str, Any]) -> None:
        self._head = {
            **head,
            "object": "response",
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "output": [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
        }
        self._number = str(head["id"]).partition("_")[2]
        self._numbers = count()
        #: Kinds of the items so far; the last is open.
        self._items: list[str] = []

    def begin(self) -> Iterator[Event]:
        yield self._event("response.created", response=self._head)
        yield self._event("response.in_progress", response=self._head)

    def grow(self, index: int, delta: ReplyDelta) -> Iterator[Event]:
        for kind, text in (("reasoning", delta.reasoning), ("message", delta.content)):
            if not text:
                continue
            if kind not in self._items:
                yield from self._open(kind)
            more: dict[str, Any] = {"logprobs": []} if kind == "message" else {}
            yield self._part_event(f"response.{_KINDS[kind]}.delta", kind, delta=text, **more)

    def end(self, body: Mapping[str, Any], rests: list[ReplyDelta]) -> Iterator[Event]:
        yield from self.grow(0, rests[0])
        for item in body["output"]:
            yield from self._close(item)
        yield self._event(f"response.{body['status']}", response=body)

    def _open(self, kind: str) -> Iterator[Event]:
        self._items.append(kind)
        item: Event = {"id": self._id(kind), "type": kind, "status": "in_progress", "content": []}
        item |= {"role": "assistant"} if kind == "message" else {}
        item |= {"summary": []} if kind == "reasoning" else {}
        place = self._items.index(kind)
        yield self._event("response.output_item.added", output_index=place, item=item)
        part: Event = {"type": _KINDS[kind], "text": ""}
        part |= {"annotations": [], "logprobs": []} if kind == "message" else {}
        yield self._part_event("response.content_part.added", kind, part=part)

    def _close(self, item: Mapping[str, Any]) -> Iterator[Event]:
        kind = item["type"]
        if kind not in self._items:
            yield from self._open(kind)
        [part] = item["content"]
        more = {"logprobs": part["logprobs"]} if kind == "message" else {}
        yield self._part_event(f"response.{_KINDS[kind]}.done", kind, text=part["text"], **more)
        yield self._part_event("response.content_part.done", kind, part=part)
        place = self._items.index(kind)
        yield self._event("response.output_item.done", output_index=place, item=item)

    def _id(self, kind: str) -> str:
        return f"{'msg' if kind == 'message' else 'rs'}_{self._number}"

    def _part_event(self, name: str, kind: str, **fields: Any) -> Event:
        place = {"item_id": self._id(kind), "output_index": self._items.index(kind)}
        return self._event(name, **place, content_index=0, **fields)

    def _event(self, name: str, **fields: Any) -> Event:
        return {"type": name, "sequence_number": next(self._numbers), **fields}
