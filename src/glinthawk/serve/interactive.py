"""Requests that somebody waits for: the same bodies as in lines of a batch, in the same batches of
the engine, before all jobs."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, get_args

import msgspec

from glinthawk.core.errors import GlinthawkError, RequestError
from glinthawk.core.sequence import Request, Sequence
from glinthawk.engine.awaiting_asker import AwaitingAsker
from glinthawk.engine.shared_engine import SharedEngine
from glinthawk.jobs.line_envelope import Kind, TextKind
from glinthawk.jobs.lines import Task
from glinthawk.jobs.results import answer_body
from glinthawk.serve.api_errors import ApiError, body_of, error_body
from glinthawk.serve.growing_reply import GrowingReply
from glinthawk.serve.response_events import ResponseEvents
from glinthawk.serve.served_model import ServedModel
from glinthawk.serve.server_metrics import ServerMetrics
from glinthawk.serve.stream_events import (
    ChatEvents,
    CompletionEvents,
    Event,
    StreamForm,
    write_event,
)
from glinthawk.serve.text_thread import TextThread

__all__ = ["Interactive", "InteractiveTask"]


@dataclass(frozen=True, slots=True)
class InteractiveTask:
    """A request that can be answered, when it came, and whether its answer is streamed."""

    task: Task
    requests: list[Request]
    created: int
    began: float
    is_streamed: bool
    with_usage: bool


class Interactive:
    """Used on the event loop. Text work has a thread of its own, so that a long prompt keeps nobody
    else from being heard."""

    def __init__(self, model: ServedModel, engine: SharedEngine, metrics: ServerMetrics) -> None:
        self._model, self._engine, self._metrics = model, engine, metrics
        self._reader, self._maker = model.reader(), model.maker()
        self._thread = TextThread()

    def close(self) -> None:
        """End the thread."""
        self._thread.close()

    async def read(self, kind: Kind, raw: bytes) -> InteractiveTask:
        """Raises ApiError for what is no JSON object, RequestError for what cannot be answered."""
        began = time.monotonic()
        return await self._thread.do(partial(self._read, kind, raw, began))

    async def answer(self, asked: InteractiveTask) -> dict[str, Any]:
        """The whole answer. Whoever gives up waiting cancels this."""
        whole: dict[int, Sequence] = {}
        async with self._asking(asked) as asker:
            async for newest in asker.steps():
                whole |= _ended(newest)
        self._metrics.observe_end(asked.began)
        return await self._thread.do(lambda: self._body(asked, whole))

    async def stream(self, asked: InteractiveTask) -> AsyncIterator[bytes]:
        """The same as events; an error is one too."""
        form = self._stream_form(asked)
        try:
            async for events in self._events(asked, form):
                yield b"".join(map(write_event, events))
        except RequestError as error:
            yield write_event(body_of(error)[1])
        except GlinthawkError as error:
            yield write_event(error_body(503, str(error)))
        yield form.last

    async def _events(self, asked: InteractiveTask, form: StreamForm) -> AsyncIterator[list[Event]]:
        whole: dict[int, Sequence] = {}
        grown: dict[int, GrowingReply] = {}
        yield list(form.begin())
        async with self._asking(asked) as asker:
            async for newest in asker.steps():
                if not grown and not whole:
                    self._metrics.observe_first(asked.began)
                whole |= _ended(newest)
                events = await self._thread.do(partial(self._grow, asked, form, newest, grown))
                if events:
                    yield events
        self._metrics.observe_end(asked.began)
        yield await self._thread.do(lambda: self._last_events(asked, form, whole, grown))

    @asynccontextmanager
    async def _asking(self, asked: InteractiveTask) -> AsyncIterator[AwaitingAsker]:
        # What is looked for after every token is looked for on the engine's thread.
        asker = AwaitingAsker(asked.requests, self._model.job_text.stop_found, self._check)
        number = self._engine.ask(asker)
        try:
            yield asker
        except (asyncio.CancelledError, GeneratorExit):
            self._metrics.count_abort()
            raise
        finally:
            self._engine.withdraw(number)

    def _check(self, sequence: Sequence) -> None:
        self._model.limits.check_answer(sequence)
        self._metrics.count_answer(sequence)

    # -- on the thread for text --------------------------------------------------------------------

    def _read(self, kind: Kind, raw: bytes, began: float) -> InteractiveTask:
        try:
            body = msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ApiError(400, f"the body is not JSON ({error})") from error
        if not isinstance(body, dict):
            raise ApiError(400, "the body must be an object")
        self._check_model(body.get("model"))
        is_streamed, with_usage = _pop_stream(kind, body)
        task = self._reader.ask(0, secrets.token_hex(12), kind, body)
        requests = [
            replace(self._maker.make(task, index, index), is_streamed=is_streamed)
            for index in range(task.num_choices)
        ]
        return InteractiveTask(task, requests, int(time.time()), began, is_streamed, with_usage)

    def _check_model(self, name: Any) -> None:
        """A body may leave it out. Lines of a batch may name any, unless --served-model-name says
        otherwise: files were written for other servers."""
        if name not in (None, self._model.name, *self._model.adapters):
            raise ApiError(
                404,
                f"there is no model {name!r:.80}; {self._model.name!r} answers",
                param="model",
                code="model_not_found",
            )

    def _body(self, asked: InteractiveTask, whole: dict[int, Sequence]) -> dict[str, Any]:
        task = asked.task
        choices = [whole[index] for index in range(task.num_choices)]
        return answer_body(task, task.custom_id, choices, self._model.text, asked.created)

    def _reply(self, asked: InteractiveTask, sequence: Sequence) -> GrowingReply:
        task = asked.task
        return GrowingReply(sequence.request, task.reply, self._model.text, is_held=task.echo)

    def _grow(
        self,
        asked: InteractiveTask,
        form: StreamForm,
        newest: list[Sequence],
        grown: dict[int, GrowingReply],
    ) -> list[Event]:
        events: list[Event] = []
        for sequence in newest:
            if sequence.finish_reason is None:
                index = sequence.request.id
                reply = grown.setdefault(index, self._reply(asked, sequence))
                if delta := reply.grow(sequence):
                    events += form.grow(index, delta)
        return events

    def _last_events(
        self,
        asked: InteractiveTask,
        form: StreamForm,
        whole: dict[int, Sequence],
        grown: dict[int, GrowingReply],
    ) -> list[Event]:
        body = self._body(asked, whole)
        rests = []
        for index, (content, reasoning) in enumerate(_said(body)):
            reply = grown.get(index) or self._reply(asked, whole[index])
            rests.append(reply.rest(content, reasoning))
        return list(form.end(body, rests))

    def _stream_form(self, asked: InteractiveTask) -> StreamForm:
        task = asked.task
        number, model = task.custom_id, task.model
        if task.kind == "response":
            return ResponseEvents(
                {"id": f"resp_{number}", "created_at": asked.created, "model": model}
            )
        prefix = "chatcmpl" if task.kind == "chat" else "cmpl"
        head = {"id": f"{prefix}-{number}", "created": asked.created, "model": model}
        if task.kind == "chat":
            return ChatEvents(head, task.num_choices, asked.with_usage)
        return CompletionEvents(head, asked.with_usage)


def _pop_stream(kind: Kind, body: dict[str, Any]) -> tuple[bool, bool]:
    """Whether an answer is streamed, and with its usage; a line has no fields for that."""
    is_streamed, options = body.pop("stream", None), body.pop("stream_options", None)
    if not isinstance(is_streamed, bool | None):
        raise ApiError(400, "stream must be true or false", param="stream")
    if is_streamed and kind not in get_args(TextKind):
        raise ApiError(400, "only text is streamed; leave stream out", param="stream")
    return bool(is_streamed), _wants_usage(options)


def _wants_usage(options: Any) -> bool:
    if options is None:
        return False
    if not isinstance(options, dict):
        raise ApiError(400, "stream_options must be an object", param="stream_options")
    return options.get("include_usage") is True


def _ended(newest: list[Sequence]) -> dict[int, Sequence]:
    """By choice."""
    return {one.request.id: one for one in newest if one.finish_reason is not None}


def _said(body: dict[str, Any]) -> list[tuple[str, str]]:
    """Content and reasoning of each choice of an answer, of any API."""
    if "output" in body:
        said = {item["type"]: item["content"][0]["text"] for item in body["output"]}
        return [(said.get("message", ""), said.get("reasoning", ""))]
    if body["object"] == "text_completion":
        return [(choice["text"], "") for choice in body["choices"]]
    messages = [choice["message"] for choice in body["choices"]]
    return [(one["content"] or "", one.get("reasoning_content") or "") for one in messages]
