"""A node of a pipeline, as the engine knows it."""

import logging
import time
from dataclasses import dataclass, field

import msgspec

from glinthawk.core import errors
from glinthawk.core.errors import GlinthawkError, WireError, WorkerBusy, WorkerLost
from glinthawk.core.slices import LayerSlice
from glinthawk.telemetry.reading import Glance
from glinthawk.telemetry.usage import Usage
from glinthawk.wire.address import Address
from glinthawk.wire.client_channel import ClientChannel
from glinthawk.wire.control import (
    Fates,
    FromNode,
    Glanced,
    HomeAtNode,
    Loaded,
    LoadSlice,
    Used,
)
from glinthawk.wire.keys import Identity
from glinthawk.wire.messages import Bye, Message

__all__ = ["NodeLink"]

_log = logging.getLogger(__name__)

#: How often a lost one is tried again, in seconds.
_RETRY_S = 0.5


@dataclass(slots=True)
class NodeLink:
    """The channel to it, while there is one, and what it has said of itself."""

    number: int
    address: Address
    load: LoadSlice
    channel: ClientChannel | None = None
    loaded: Loaded | None = None
    homes: dict[int, HomeAtNode] = field(default_factory=dict)
    #: Of its own workers that are away.
    fates: Fates = field(default_factory=lambda: Fates({}, []))
    usage: Usage | None = None
    #: What it said last when somebody looked on.
    glance: Glance | None = None
    retry_s: float = 0.0
    #: Since when it serves another run, or does not find its workers.
    refused_s: float | None = None
    #: To load its slice.
    num_attempts: int = 0

    @property
    def name(self) -> str:
        """For people."""
        return f"node {self.number + 1}"

    def begin(self, run: str, identity: Identity | None) -> None:
        """Ask it to load its slice, for the run of this name."""
        silence_s = self.load.config.worker_timeout
        self.channel = ClientChannel(self.address, identity, silence_s, FromNode)
        self.num_attempts += 1
        self.send(msgspec.structs.replace(self.load, run=run, attempt=self.num_attempts))

    def send(self, message: Message) -> None:
        """What finds no connection is dropped: ``receive`` tells that the node is gone."""
        if self.channel is None:
            return
        try:
            self.channel.send(message)
        except WorkerLost:
            _log.debug("%s is gone", self.name)

    def receive(self) -> Message | None:
        """What it has said; None if that is all. Raises WorkerLost."""
        if self.channel is None:
            return None
        if (received := self.channel.receive()) is not None:
            return received[0]
        if self.loaded is None and self.channel.is_stalled:
            raise WorkerLost("it has not loaded its slice, and has nothing to do")
        return None

    def refuse(self, kind: str, text: str, last_words: str) -> None:
        """It has refused, with an error of that kind. Raises that error, unless the node is to be
        tried again: it serves another run, and may not know yet that that one has died; or its
        workers are away, for some time yet."""
        words = last_words and f" ({last_words})"
        error = _error(kind, f"{self.name} ({self.address.endpoint}): {text}{words}")
        now = time.monotonic()
        if self.refused_s is None:
            _log.warning("%s; waiting for it", error)
            self.refused_s = now
        is_patient = now - self.refused_s < self.load.config.wait_for_workers
        if not isinstance(error, WorkerBusy | WorkerLost) or not is_patient:
            raise error

    def leave(self) -> None:
        """It is tried again some time later."""
        assert self.channel is not None
        self.channel.close()
        self.channel, self.loaded = None, None
        self.homes.clear()
        self.fates = Fates({}, [])
        self.retry_s = time.monotonic() + _RETRY_S

    def give(self, part: LayerSlice) -> None:
        """Other layers than those it has loaded, which it lets go."""
        self.send(Bye())
        self.leave()
        self.load = msgspec.structs.replace(self.load, part=part)

    def take(self, message: Loaded | Fates | Used | Glanced) -> None:
        """What it says of itself."""
        match message:
            case Loaded():
                self.loaded, self.refused_s = message, None
            case Fates():
                self._tell(message)
            case Used(usage):
                self.usage = usage
            case Glanced(glance):
                self.glance = glance

    def _tell(self, fates: Fates) -> None:
        """Take in, and say once, what has become of its own workers."""
        for home, words in fates.words.items():
            if words != self.fates.words.get(home):
                _log.warning("%s: %s", self.name, words)
        for home in set(fates.over).difference(self.fates.over):
            _log.warning("%s: home %d does not come back", self.name, home)
        self.fates = fates

    def close(self) -> None:
        """Take leave for good."""
        if self.channel is not None:
            self.send(Bye())
            self.channel.socket.linger = 1_000
            self.channel.close()


def _error(kind: str, text: str) -> GlinthawkError:
    found = getattr(errors, kind, WireError)
    is_ours = isinstance(found, type) and issubclass(found, GlinthawkError)
    return found(text) if is_ours else WireError(text)
