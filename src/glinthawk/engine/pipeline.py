"""Tier 1 as several nodes in a row, each with a slice of the model, driven by messages.

Every node hears the same in the same order. Home h is the h-th worker of every slice together, and
home 0 the nodes' own memory: a sequence's KV is at one home, a part of it with each slice. When one
worker of a home is lost, the home is lost: all nodes empty it, and it joins again when it is
complete.
"""

import logging
import secrets
import time
from collections.abc import Sequence

import zmq

from glinthawk.core.batch import Batch
from glinthawk.core.config import ANSWER_S
from glinthawk.core.errors import WorkerLost
from glinthawk.core.slices import LayerSlice
from glinthawk.engine.known_tokens import KnownTokens
from glinthawk.engine.node_link import NodeLink
from glinthawk.engine.pipeline_facts import idle_together_s
from glinthawk.engine.pipeline_glances import PipelineGlances
from glinthawk.engine.pipeline_homes import PipelineHomes
from glinthawk.engine.pipeline_processes import PipelineProcesses
from glinthawk.engine.slice_loads import move_load
from glinthawk.engine.tier import Done, TierEvent
from glinthawk.launch.deployment import Processes
from glinthawk.scheduler.commands import HomeJoined, HomeLeaving, HomeLost
from glinthawk.scheduler.step_cost import StepCost
from glinthawk.telemetry.usage import Usage
from glinthawk.tier1.sampler import Sampled as Choice
from glinthawk.wire.address import Address
from glinthawk.wire.control import (
    Cancel,
    Failed,
    Fates,
    Forget,
    Glanced,
    Going,
    Gone,
    HomeAtNode,
    Loaded,
    LoadSlice,
    Lose,
    Moved,
    SampledStep,
    Unlinked,
    Used,
)
from glinthawk.wire.keys import Identity
from glinthawk.wire.messages import Ask, Message, Ping

__all__ = ["Pipeline"]

_log = logging.getLogger(__name__)

#: How long a node may take to load its slice.
_LOAD_S = 1800.0
_LOOK_S = 0.1


class Pipeline:
    """Tier 1 over ``stages``; ``processes`` are those of them that were started here."""

    def __init__(
        self,
        loads: list[tuple[Address, LoadSlice]],
        identity: Identity | None,
        processes: Processes,
    ) -> None:
        self._stages = [NodeLink(i, address, load) for i, (address, load) in enumerate(loads)]
        self._identity = identity
        self._name = secrets.token_hex(8)
        self._running: dict[int, Batch] = {}
        self._known = KnownTokens()
        self._homes = PipelineHomes(self._stages)
        self._processes = PipelineProcesses(processes, self._stages, self._homes)
        self.glances = PipelineGlances(self._stages)
        self._events: list[TierEvent] = []
        #: All that there were at the beginning.
        self._first_homes: frozenset[int] = frozenset()

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(self, *_: object) -> None:
        for stage in self._stages:
            stage.close()

    def open(self) -> None:
        """Load all slices. Raises GlinthawkError when one cannot be, or no node answers."""
        for stage in self._stages:
            stage.begin(self._name, self._identity)
        deadline = time.monotonic() + _LOAD_S
        while not self._is_complete():
            self._processes.check()
            self._look(_LOOK_S)
            if time.monotonic() > deadline:
                raise WorkerLost(f"the nodes have not loaded the model in {_LOAD_S:g} s")
        self._first_homes = frozenset(self._homes)
        self._events.clear()

    def share(self, parts: Sequence[LayerSlice]) -> None:
        """Load other layers at each node. Raises as ``open`` does."""
        self._homes.clear()
        for stage, part in zip(self._stages, parts, strict=True):
            stage.give(part)
        self.open()

    def _is_complete(self) -> bool:
        return self._homes.are_complete and all(stage.loaded for stage in self._stages)

    # -- what the engine asks ----------------------------------------------------------------------

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def is_expecting(self) -> bool:
        """Nodes open lost homes again, and lost nodes are tried again, unless a process that they
        need is not started again."""
        return bool(self._events) or not self._first_homes <= {
            *self._homes,
            *self._processes.over(),
        }

    @property
    def last_words(self) -> str:
        return self._processes.last_words

    def loaded(self) -> list[Loaded]:
        """What the nodes have said of their slices."""
        loaded = [stage.loaded for stage in self._stages if stage.loaded is not None]
        assert len(loaded) == len(self._stages)
        return loaded

    def homes(self) -> list[HomeJoined]:
        return self._homes.joined()

    def start(self, batch: Batch) -> None:
        self._running[batch.id] = batch
        self._tell_all(self._known.step(batch))

    def release(self, home: int, sequences: list[int]) -> None:
        self._known.forget(sequences)
        self._tell_all(Forget(home, sequences))

    def abort(self, batch_id: int) -> None:
        if self._running.pop(batch_id, None) is not None:
            self._tell_all(Cancel(batch_id))

    def lose(self, home: int) -> None:
        self._known.lose(home)
        self._homes.discard(home)
        for stage in self._stages:
            stage.homes.pop(home, None)
        self._tell_all(Lose(home))

    def reset(self) -> None:
        """All nodes are left and joined again, as if each had been lost."""
        self._running.clear()
        self._homes.clear()
        self._events.clear()
        self._known.clear()
        for stage in self._stages:
            stage.homes.clear()  # one that was just being left may have kept some
            if stage.channel is not None:
                self._leave(stage)

    def poll(self, timeout_s: float | None = None) -> list[TierEvent]:
        if not self._events:
            self._look(_LOOK_S if timeout_s is None else min(timeout_s, _LOOK_S))
        events, self._events = self._events, []
        return events

    def step_cost(self) -> StepCost | None:
        return None

    def usage(self) -> Usage:
        for stage in self._stages:
            stage.usage = None
        self._tell_all(Ask())
        deadline = time.monotonic() + ANSWER_S
        # One that is lost since took its own count along.
        while any(stage.loaded and not stage.usage for stage in self._stages):
            self._look(_LOOK_S)
            if time.monotonic() > deadline:
                break
        return Usage.total(stage.usage or Usage([0.0]) for stage in self._stages)

    # -- what the nodes say ------------------------------------------------------------------------

    def _look(self, timeout_s: float) -> None:
        """Take in what has come, or comes within the time."""
        for old, new in self._processes.revive().items():
            self._move(old, new)
        self.glances.ask()
        poller = zmq.Poller()
        for stage in self._stages:
            for socket in stage.channel.sockets if stage.channel is not None else ():
                poller.register(socket, zmq.POLLIN)
        if poller.sockets:
            poller.poll(int(1000 * timeout_s))
        else:
            time.sleep(timeout_s)
        for stage in self._stages:
            self._hear(stage)
        if self._running:
            self._check_moving()

    def _move(self, old: Address, new: Address) -> None:
        """Who was at ``old`` has come up again at ``new``: all that reach for it are told."""
        for stage in self._stages:
            load, stage.load = stage.load, move_load(stage.load, old.text, new.text)
            is_moved = stage.address == old
            if is_moved:
                stage.address = new
            if stage.channel is not None and (is_moved or stage.load.next != load.next):
                self._lose_stage(stage, WorkerLost(f"{old.endpoint} is at {new.endpoint} now"))
            elif stage.load != load:
                stage.send(Moved(old.text, new.text))

    def _check_moving(self) -> None:
        """When for some time no node has had anything to do though steps are under way, something
        is lost, and nobody knows where: all nodes load their slices again."""
        if idle_together_s(self._stages) >= self._stages[0].load.config.worker_timeout:
            for stage in self._stages:
                self._lose_stage(stage, WorkerLost("a step was lost: no node has anything to do"))

    def _hear(self, stage: NodeLink) -> None:
        if stage.channel is None:
            if time.monotonic() >= stage.retry_s:
                stage.begin(self._name, self._identity)
            return
        while (message := self._next(stage)) is not None:
            self._take(stage, message)

    def _next(self, stage: NodeLink) -> Message | None:
        """What the node has said; None if that is all, or it is lost."""
        try:
            return stage.receive()
        except WorkerLost as error:
            self._lose_stage(stage, error)
            return None

    def _take(self, stage: NodeLink, message: Message) -> None:
        match message:
            case Loaded() | Fates() | Used() | Glanced():
                stage.take(message)
            case HomeAtNode(home):
                stage.homes[home] = message
                if (joined := self._homes.join(home)) is not None:
                    self._events.append(joined)
            case Going(home) if home in self._homes:
                self._events.append(HomeLeaving(home))
            case Gone(home) if home in self._homes:
                self._lose_home(home)
            case Gone(home):  # it had not joined everywhere yet
                stage.homes.pop(home, None)
                stage.send(Lose(home))
            case SampledStep():
                self._done(message)
            case Unlinked(text):
                self._lose_stage(stage, WorkerLost(text))
            case Ping():
                pass
            case Failed(kind, text):
                stage.refuse(kind, text, self.last_words)
                self._leave(stage)

    def _done(self, said: SampledStep) -> None:
        batch = self._running.get(said.step)
        # What stands on a home that was lost is about to be aborted.
        if batch is not None and all(span.home in self._homes for span in batch.spans):
            del self._running[said.step]
            pairs = zip(said.tokens, said.logprobs, strict=True)
            choices = [tuple(map(Choice, *pair)) for pair in pairs]
            self._events.append(Done(batch, choices, said.scores, said.pooled))
            self._processes.worked({span.home for span in batch.spans})

    def _lose_home(self, home: int) -> None:
        self._homes.lose(home)
        self._events.append(HomeLost(home))

    def _lose_stage(self, stage: NodeLink, error: WorkerLost) -> None:
        """All homes had a part there. It loads its slice again, or another one in its place."""
        _log.warning("%s: %s", stage.name, error)
        self._leave(stage)

    def _leave(self, stage: NodeLink) -> None:
        stage.leave()
        self._known.clear()
        for home in self._homes:
            self._lose_home(home)

    def _tell_all(self, message: Message) -> None:
        for stage in self._stages:
            stage.send(message)
