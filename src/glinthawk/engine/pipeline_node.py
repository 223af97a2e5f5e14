"""A Tier-1 node of a pipeline: one slice of a model, driven by an engine's messages."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import zmq

from glinthawk.core.batch import Batch, Span
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import GlinthawkError, WireError, WorkerBusy, WorkerLost
from glinthawk.core.sequence import Sequence as TokenSequence
from glinthawk.core.slices import LayerSlice
from glinthawk.engine.hidden_sources import Sources
from glinthawk.engine.node_opening import OpenNode, open_node
from glinthawk.engine.tier import Done
from glinthawk.launch.local_machine import load_identity
from glinthawk.scheduler.commands import HomeJoined, HomeLost
from glinthawk.tier1.model.loader import LoadedModel
from glinthawk.tier1.sampler import sample_batch
from glinthawk.wire.address import Address
from glinthawk.wire.client_channel import ClientChannel
from glinthawk.wire.control import (
    Cancel,
    Failed,
    Fates,
    Follow,
    Forget,
    FromEngine,
    FromNode,
    Gone,
    Hidden,
    HomeAtNode,
    Loaded,
    LoadSlice,
    Lose,
    Moved,
    RunStep,
    SampledStep,
    StepRow,
    Unlinked,
    Used,
)
from glinthawk.wire.keys import Identity
from glinthawk.wire.messages import VERSION, Ask, Bye, Message, Ping, decode
from glinthawk.wire.server_channel import ServerChannel

__all__ = ["serve_node"]

#: How often, in seconds, a node without work looks at homes that may come back, and at the link to
#: the node behind.
_LOOK_S, _LINK_LOOK_S = 0.1, 0.5


class _LinkLost(Exception):
    """The link to the node behind is gone."""


class _Stage:
    """An open slice: mirrors of the sequences, steps that wait for their hidden state, a node."""

    def __init__(
        self,
        opened: OpenNode,
        following: ClientChannel | None,
        tell: Callable[[Message], None],
    ) -> None:
        self._node, self._loaded = opened.node, opened.loaded
        self._following, self._tell = following, tell
        self._sequences: dict[int, TokenSequence] = {}
        self._waiting: dict[int, Batch] = {}
        self._hidden: dict[int, torch.Tensor] = {}
        self._last_step = -1
        self._told = Fates({}, [])
        for home in self._node.homes():
            tell(_joined(home))

    @property
    def num_running(self) -> int:
        return self._node.num_running

    @property
    def is_expecting(self) -> bool:
        return self._node.is_expecting

    @property
    def has_link(self) -> bool:
        """Whether there is a node behind."""
        return self._following is not None

    @property
    def is_idle(self) -> bool:
        """Whether all that is to be done here is done, and has reached the node behind."""
        is_settled = self._following is None or self._following.is_settled
        return not self._node.num_running and is_settled

    def handle(self, message: Message, frames: Sequence[memoryview]) -> None:
        match message:
            case RunStep():
                self._run(message)
            case Hidden(step):
                self._receive(step, frames)
            case Forget(home, sequences):
                self._node.release(home, sequences)
                for sequence in sequences:
                    self._sequences.pop(sequence, None)
            case Cancel(step):
                self._hidden.pop(step, None)
                if self._waiting.pop(step, None) is None:
                    self._node.abort(step)
            case Lose(home):
                for number in [s.id for s in self._sequences.values() if s.home == home]:
                    del self._sequences[number]
                self._node.lose(home)
            case Moved(old, new):
                self._node.move(Address.parse(old), Address.parse(new))
            case Ask():
                self._tell(Used(self._node.usage()))

    def advance(self, timeout_s: float | None) -> None:
        """Run until something has happened here or an engine calls. Raises _LinkLost. While as much
        as may be is on its way to the node behind, nothing runs that would add to it."""
        self._check_link()
        if self._following is not None and not self._following.window.has_room():
            self._following.wait(_LOOK_S)
            return
        for event in self._node.poll(timeout_s):
            match event:
                case Done(batch, result):
                    self._pass_on(batch, result)
                case HomeLost(home):
                    self._tell(Gone(home))
                case HomeJoined() as joined:
                    self._tell(_joined(joined))
        self._tell_fates()

    def _tell_fates(self) -> None:
        fates = self._node.fates()
        words = {home: fate.words for home, fate in fates.items()}
        news = Fates(words, [home for home, fate in fates.items() if fate.is_over])
        if news != self._told:
            self._told = news
            self._tell(news)

    def _run(self, message: RunStep) -> None:
        self._last_step = message.step
        for step in [step for step in self._hidden if step < message.step]:
            del self._hidden[step]  # cancelled before this slice was loaded
        for admitted in message.admitted:
            sequence = TokenSequence(admitted.request, admitted.sequence, list(admitted.output))
            self._sequences[sequence.id] = sequence
        batch = Batch(
            message.step,
            tuple(map(self._span, message.extends)),
            tuple(map(self._span, message.prompts)),
        )
        if self._loaded.part.is_first:
            self._node.start(batch)
        else:
            self._waiting[batch.id] = batch
            self._start_if_ready(batch.id)

    def _span(self, row: StepRow) -> Span:
        sequence = self._sequences.get(row.sequence)
        if sequence is None:
            raise WireError(f"nobody has told of sequence {row.sequence}")
        sequence.home = row.home
        sequence.output += row.tokens
        return Span(sequence, row.home, row.start, row.length, row.source)

    def _receive(self, step: int, frames: Sequence[memoryview]) -> None:
        if step <= self._last_step and step not in self._waiting:
            return  # it was cancelled on the way
        dtype, size = self._loaded.model.dtype, self._loaded.hidden_size
        if len(frames) != 1 or frames[0].nbytes % (size * dtype.itemsize):
            raise WireError("a hidden state of another size; do all nodes run one model?")
        hidden = torch.frombuffer(frames[0], dtype=dtype).view(-1, size)
        self._hidden[step] = hidden.to(self._loaded.model.device)
        self._start_if_ready(step)

    def _start_if_ready(self, step: int) -> None:
        if step in self._waiting and step in self._hidden:
            hidden, batch = self._hidden.pop(step), self._waiting.pop(step)
            if len(hidden) != batch.num_tokens:
                raise WireError(f"step {step} has {batch.num_tokens} rows, not {len(hidden)}")
            self._node.start(batch, hidden)

    def _check_link(self) -> None:
        """The node behind has nothing to say, unless it refuses what it is sent; what else comes is
        news of the connection."""
        if self._following is not None:
            with _naming_link():
                while (received := self._following.receive()) is not None:
                    if isinstance(received[0], Failed):
                        raise WorkerLost(received[0].text)

    def _pass_on(self, batch: Batch, result: Any) -> None:
        if self._following is not None:
            with _naming_link():
                self._following.send(Hidden(batch.id), [result])
            return
        tokens = [choice.token for choice in result]
        self._tell(SampledStep(batch.id, tokens, [choice.logprobs for choice in result]))


@contextmanager
def _naming_link() -> Iterator[None]:
    try:
        yield
    except WorkerLost as error:
        raise _LinkLost(f"the next node is lost: {error}") from error


def _hidden_bytes(_batch: Batch, hidden: torch.Tensor) -> memoryview:
    """In place of sampling, on every slice but the last."""
    return hidden.cpu().contiguous().view(torch.uint8).numpy().data.cast("B")


class _NodeServer:
    """Serves one engine at a time, as long as that is connected."""

    def __init__(self, channel: ServerChannel, identity: Identity | Path | None, cores: int | None):
        self._channel = channel
        self._identity, self._cores = identity, cores
        self._client: bytes | None = None
        self._stage: _Stage | None = None
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
                    self._guard(lambda stage: stage.advance(_LOOK_S if stage.num_running else 0.0))

    def _patience_ms(self) -> int | None:
        if self._stage is None:
            return None
        if self._stage.num_running:
            return 0
        if self._stage.is_expecting:
            return int(1000 * _LOOK_S)
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
                refusal = "hidden states of this run come from another link"
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

    def _guard(self, act: Callable[[_Stage], None]) -> None:
        """Tell the engine what went wrong; the slice is closed then."""
        if self._stage is None:
            return
        try:
            act(self._stage)
        except _LinkLost as error:
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

    def _make_stage(self, message: LoadSlice) -> _Stage:
        config, part = message.config, message.part
        following = None
        if message.next is not None:
            address = Address.parse(message.next)
            identity = load_identity(self._identity, [address])
            following = self._stack.enter_context(
                ClientChannel(address, identity, config.worker_timeout, FromNode)
            )
            following.send(Follow(message.run, message.attempt))
        sample = sample_batch if part.is_last else _hidden_bytes
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
        return _Stage(opened, following, self._tell)

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
        config.dense,
        config.max_model_len,
        config.batch_invariant,
        part,
    )


def _describe(opened: OpenNode) -> Loaded:
    spec, tuning = opened.loaded.spec, opened.tuning
    step_cost = tuning.step_cost
    return Loaded(
        spec.max_model_len,
        spec.vocab_size,
        spec.dtype,
        tuning.limits.batch_size,
        dense_s=step_cost.dense_s(tuning.limits.batch_size) if step_cost else 0.0,
        link_s=max(step_cost.link_s.values(), default=0.0) if step_cost else 0.0,
        arithmetic=opened.arithmetic,
        longest_len=spec.longest_len,
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


def _joined(home: HomeJoined) -> HomeAtNode:
    return HomeAtNode(
        home.home, home.num_pages, home.page_tokens, home.most_sequences or home.num_pages
    )
