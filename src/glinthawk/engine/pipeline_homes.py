"""Homes of a pipeline: each is there when every slice has its part of it."""

import logging
from collections.abc import Iterator, Sequence

from glinthawk.engine.node_link import NodeLink
from glinthawk.engine.slice_loads import list_homes
from glinthawk.scheduler.commands import HomeJoined
from glinthawk.wire.address import Address

__all__ = ["PipelineHomes"]

_log = logging.getLogger(__name__)


class PipelineHomes:
    """Those that are complete, of what the nodes have told (``NodeLink.homes``)."""

    def __init__(self, stages: Sequence[NodeLink]) -> None:
        self._stages = stages
        self._joined: dict[int, HomeJoined] = {}

    def __contains__(self, home: int) -> bool:
        return home in self._joined

    def __iter__(self) -> Iterator[int]:
        return iter(list(self._joined))

    def joined(self) -> list[HomeJoined]:
        """All that are complete."""
        return list(self._joined.values())

    @property
    def are_complete(self) -> bool:
        """Whether there are any, and every part belongs to one that is complete."""
        parts = {home for stage in self._stages for home in stage.homes}
        return bool(parts) and parts == self._joined.keys()

    def join(self, home: int) -> HomeJoined | None:
        """A node has told of its part: the home, if that was the last one."""
        parts = [stage.homes.get(home) for stage in self._stages]
        complete = [part for part in parts if part is not None]
        if len(complete) < len(parts):
            return None
        self._joined[home] = HomeJoined(
            home,
            min(part.num_pages for part in complete),
            complete[0].page_tokens,
            min(part.most_sequences for part in complete),
        )
        return self._joined[home]

    def lose(self, home: int) -> None:
        """One part is gone, and so the home."""
        _log.warning("home %d is lost; its sequences begin again elsewhere", home)
        del self._joined[home]

    def discard(self, home: int) -> None:
        """It is emptied and may go, unless it was lost before."""
        self._joined.pop(home, None)

    def clear(self) -> None:
        """All are gone, without a word."""
        self._joined.clear()

    def workers(self) -> Iterator[tuple[int, list[Address]]]:
        """(home, its workers), slice after slice."""
        for stage in self._stages:
            yield from enumerate(list_homes(stage.load.config), start=1)
