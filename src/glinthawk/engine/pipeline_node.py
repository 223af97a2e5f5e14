"""A Tier-1 node of a pipeline: one slice of a model, driven by an engine's messages."""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import zmq

from glinthawk.core.batch import Batch
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import GlinthawkError, WireError, WorkerBusy
from glinthawk.core.lora import identify_adapters
from glinthawk.core.slices import LayerSlice
from glinthawk.engine.hidden_sources import Sources
from glinthawk.engine.node_opening import OpenNode, open_node
from glinthawk.engine.open_slice import LOOK_S, LinkLost, OpenSlice
from glinthawk.launch.local_machine import load_identity
from glinthawk.tier1.model.loader import LoadedModel
from glinthawk.wire.address import Address
from glinthawk.wire.client_channel import ClientChannel
from glinthawk.wire.control import (
    Failed,
    Follow,
    FromEngine,
    FromNode,
    Hidden,
    Loaded,
    LoadSlice,
    Unlinked,
)
from glinthawk.wire.keys import Identity
from glinthawk.wire.messages import VERSION, Bye, Message, Ping, decode
from glinthawk.wire.server_channel import ServerChannel

__all__ = ["serve_node"]

#: How often, in seconds, a node without work looks at the link to the node behind.
_LINK_LOOK_S = 0.5


def _hidden_bytes(_batch: Batch, hidden: torch.Tensor, _: torch.Tensor | None = None) -> memoryview:
    """In place of sampling, on every slice but the last."""
    return hidden.cpu().contiguous().view(torch.uint8).numpy().data.cast("B")


class _NodeServer:
    """Serves one engine at a time, as long as that is connected."""

    def __init__(self, channel: ServerChannel, identity: Identity | Path | None, cores: int | None):
        self._channel = channel
        self._identity, self._cores = identity, cores
        self._client: bytes | None = None
        self._stage: OpenSlice | None = None
        self._stack = ExitStack()
        self._poller = zmq.Poller()
        #: The last model, for the engine that comes back.
        self._loaded: tuple[object, LoadedModel] | None = None
        self._sources = Sources()
        self._run = ""
        self._num_heard = 0
        channel.progress = self._progress

    def serve(self, lifeline: int | None) -> None:
        self._poller.register(self._channel.socket, zmq.POLLIN)
        if lifeline is not None:
            self._poller.register(lifeline, zmq.POLLIN)
        with self._stack:
            while True:
                ready: dict[Any, int] = dict(self._poller.poll(self._patience_ms()))
                if lifeline is not None and lifeline in ready and not os.read(lifeline, 1):
                    return
                if self._channel.socket in ready:
                    self._answer()
                elif self._stage is not None:
                    self._guard(lambda stage: stage.advance(LOOK_S if stage.num_running else 0.0))

    def _patience_ms(self) -> int | None:
        if self._stage is None:
            return None
        if self._stage.num_running:
            return 0
        if self._stage.is_expecting:
            return int(1000 * LOOK_S)
        return int(1000 * _LINK_LOOK_S) if self._stage.has_link else None

    def _progress(self) -> tuple[int, bool]:
        return self._num_heard, self._stage is None or self._stage.is_idle

    def _answer(self) -> None:
        received = self._channel.take()
        if received is None:
            return
        client, frames = received
        try:
            message = decode(frames[0] if frames else b"", FromEngine)
        except GlinthawkError as error:  # a configuration in it may be refused, too
            self._channel.send(client, Failed(type(error).__name__, str(error)))
            return
        if isinstance(message, LoadSlice):
            self._open(client, message)
        elif isinstance(message, Follow):
            if not self._sources.admits(client, message.run, message.attempt):
                refusal = "hidden states of this run come from a later attempt"
                self._channel.send(client, Failed("WireError", refusal))
        elif isinstance(message, Hidden):
            if self._sources.has(client, self._run):
                self._pass(message, frames[1:])
        elif client != self._client:
            self._channel.send(client, Failed("WireError", "this node serves another engine"))
        elif isinstance(message, Bye):
            self._close()
        else:
            self._pass(message, frames[1:])

    def _pass(self, message: Message, frames: Sequence[memoryview]) -> None:
        self._num_heard += 1
        self._guard(lambda stage: stage.handle(message, frames))

    def _guard(self, act: Callable[[OpenSlice], None]) -> None:
        """Tell the engine what went wrong; the slice is closed then."""
        if self._stage is None:
            return
        try:
            act(self._stage)
        except LinkLost as error:
            self._tell(Unlinked(str(error)))
            self._close()
        except GlinthawkError as error:
            self._tell(Failed(type(error).__name__, str(error)))
            self._close()

    def _tell(self, message: Message) -> None:
        assert self._client is not None
        self._channel.send(self._client, message)

    def _open(self, client: bytes, message: LoadSlice) -> None:
        if self._is_taken(client):
            busy = "this node serves another run; wait for it or start a second node"
            self._channel.send(client, Failed(WorkerBusy.__name__, busy))
            return
        self._close()
        self._client, self._run = client, message.run
        self._num_heard += 1
        try:
            if message.version != VERSION:
                raise WireError(f"this node speaks version {VERSION}, not {message.version}")
            self._stage = self._make_stage(message)
        except GlinthawkError as error:
            self._tell(Failed(type(error).__name__, str(error)))
            self._close()

    def _is_taken(self, client: bytes) -> bool:
        """Whether another engine has a slice open here and is still connected."""
        is_other = self._stage is not None and client != self._client
        return is_other and self._client is not None and self._channel.send(self._client, Ping())

    def _make_stage(self, message: LoadSlice) -> OpenSlice:
        config, part = message.config, message.part
        following = None
        if message.next is not None:
            address = Address.parse(message.next)
            identity = load_identity(self._identity, [address])
            following = self._stack.enter_context(
                ClientChannel(address, identity, config.worker_timeout, FromNode)
            )
            following.send(Follow(message.run, message.attempt))
        sample = None if part.is_last else _hidden_bytes
        opened = self._stack.enter_context(
            open_node(
                config,
                part=part,
                sample=sample,
                loaded=self._known_model(config, part),
                cores=self._cores,
                identity=self._identity,
            )
        )
        self._loaded = (_model_key(config, part), opened.loaded)
        opened.node.watch(self._channel.socket)
        for socket in following.sockets if following is not None else ():
            opened.node.watch(socket)
            self._poller.register(socket, zmq.POLLIN)
            self._stack.callback(self._poller.unregister, socket)
        self._tell(_describe(opened))
        return OpenSlice(opened, following, self._tell)

    def _known_model(self, config: EngineConfig, part: LayerSlice) -> LoadedModel | None:
        if self._loaded is not None and self._loaded[0] == _model_key(config, part):
            return self._loaded[1]
        self._loaded = None
        return None

    def _close(self) -> None:
        self._stage = None
        self._stack.close()


def _model_key(config: EngineConfig, part: LayerSlice) -> object:
    return (
        config.model,
        config.dtype,
        config.device,
        config.load_format,
        identify_adapters(config.lora),
        config.dense,
        config.max_model_len,
        config.batch_invariant,
        part,
    )


def _describe(opened: OpenNode) -> Loaded:
    spec, tuning = opened.loaded.spec, opened.tuning
    step_cost, drafts = tuning.step_cost, tuning.limits.drafts
    return Loaded(
        spec.max_model_len,
        spec.vocab_size,
        spec.dtype,
        tuning.limits.batch_size,
        dense_s=step_cost.dense_s(tuning.limits.batch_size) if step_cost else 0.0,
        link_s=max(step_cost.link_s.values(), default=0.0) if step_cost else 0.0,
        arithmetic=opened.arithmetic,
        longest_len=spec.longest_len,
        draft_s=drafts.dense if drafts else None,
        draft_link_s=drafts.link_s if drafts else 0.0,
        rope=spec.rope,
    )


def serve_node(
    channel: ServerChannel,
    identity: Identity | Path | None = None,
    cores: int | None = None,
    lifeline: int | None = None,
) -> None:
    """Serve until ``lifeline``, a readable file descriptor, reaches its end. ``identity`` is the
    key pair, or its file, with which workers and the next node are joined."""
    _NodeServer(channel, identity, cores).serve(lifeline)
