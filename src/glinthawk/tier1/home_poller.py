"""Who has something to say to a node: homes by their links, and sockets that it watches besides."""

from collections.abc import Iterable

import zmq

from glinthawk.tier1.kv.home import Home

__all__ = ["HomePoller"]


class HomePoller:
    """The sockets of homes that are there, and the watched ones, which stay for good."""

    def __init__(self) -> None:
        self._poller = zmq.Poller()
        self._watched: set[zmq.Socket[bytes]] = set()

    @property
    def is_empty(self) -> bool:
        """Whether nobody can ever say anything."""
        return not self._poller.sockets

    @property
    def has_watched(self) -> bool:
        """Whether sockets are watched that belong to no home."""
        return bool(self._watched)

    def watch(self, socket: "zmq.Socket[bytes]") -> None:
        """Listen to ``socket``, too."""
        self._watched.add(socket)
        self._poller.register(socket, zmq.POLLIN)

    def add(self, home: Home) -> None:
        """Listen to a home."""
        for socket in _sockets(home):
            self._poller.register(socket, zmq.POLLIN)

    def remove(self, home: Home) -> None:
        """It is gone."""
        for socket in _sockets(home):
            self._poller.unregister(socket)

    def clear(self) -> None:
        """All homes are gone."""
        self._poller = zmq.Poller()
        for socket in self._watched:
            self._poller.register(socket, zmq.POLLIN)

    def poll(self, homes: Iterable[Home], timeout_ms: int) -> tuple[list[Home], bool]:
        """Those of ``homes`` that say something, and whether a watched socket does; waits for it up
        to ``timeout_ms``."""
        ready = {socket for socket, _ in self._poller.poll(timeout_ms)}
        speaking = [home for home in homes if not ready.isdisjoint(_sockets(home))]
        return speaking, not ready.isdisjoint(self._watched)


def _sockets(home: Home) -> list["zmq.Socket[bytes]"]:
    return [socket for link in home.links for socket in link.channel.sockets]
