"""The actors of a run on Ray: started, and started again when they die, wherever Ray puts them."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from glinthawk.core.errors import WorkerLost
from glinthawk.launch.revival import Fate, Revival
from glinthawk.wire.address import Address

__all__ = ["Actors"]

_log = logging.getLogger(__name__)

#: How often Ray is asked what has become of them.
_LOOK_S = 0.1


@dataclass(slots=True)
class _Seat:
    """A place among Ray's machines, and who is there."""

    name: str
    start: Callable[[], Any]
    revival: Revival = field(default_factory=Revival)
    actor: Any = None
    #: Its calls: one that tells where it listens, until that is known, and one that never ends.
    listens: Any = None
    serves: Any = None
    address: Address | None = None

    def begin(self) -> None:
        self.actor = self.start()
        self.listens, self.serves = self.actor.listen.remote(), self.actor.serve.remote()
        self.revival.started()

    def obituary(self) -> str:
        """How the actor ended, if it has."""
        for call in (self.listens, self.serves):
            if error := _outcome(call)[1]:
                return f"{self.name} ended; its last words: {error}"
        return ""

    def find(self, key: str) -> Address | None:
        """Where the actor listens, if it has just begun to."""
        where, _ = _outcome(self.listens)
        if where is None:
            return None
        self.listens, self.address = None, Address.parse(f"{where}?key={key}")
        return self.address


def _outcome(call: Any) -> tuple[Any, str]:
    """A call's result, or its error; neither while it goes on."""
    if call is None or not ray.wait([call], timeout=0)[0]:
        return None, ""
    try:
        return ray.get(call), ""
    except RayError as error:  # the last line says what happened
        return None, str(error).strip().splitlines()[-1].strip()


class Actors:
    """Those that ``starts`` start, by name, as long as the ``with`` block. ``key`` is the public
    key of all. Ray itself starts none again: it would do so at once and for ever, and not say where
    they are."""

    def __init__(
        self,
        starts: Sequence[tuple[str, Callable[[], Any]]],
        key: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seats = [_Seat(name, start) for name, start in starts]
        self._key, self._clock = key, clock
        self._next_s = 0.0

    def __enter__(self) -> "Actors":
        try:
            for seat in self._seats:
                seat.begin()
            for seat in self._seats:
                self._await(seat)
        except BaseException:
            self.close()
            raise
        return self

    def _await(self, seat: _Seat) -> None:
        ray.wait([seat.listens])
        if seat.find(self._key) is None:
            raise WorkerLost(
                f"{seat.obituary()}; is the same glinthawk installed on every machine of the Ray "
                "cluster?"
            )

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all."""
        with ExitStack() as stack:
            for seat in self._seats:
                if seat.actor is not None:
                    stack.callback(ray.kill, seat.actor)

    @property
    def addresses(self) -> list[Address]:
        return [seat.address for seat in self._seats if seat.address is not None]

    def check(self) -> None:
        """Raise WorkerLost if one has ended."""
        for seat in self._seats:
            if words := seat.obituary():
                raise WorkerLost(f"{words}; run the same command again")

    def revive(self) -> dict[Address, Address]:
        """Start others in the place of those that have died: later and later while they do no work
        between, and in the end no more. Who listens elsewhere since then: old address, new."""
        now = self._clock()
        if now < self._next_s:
            return {}
        self._next_s = now + _LOOK_S
        for seat in self._ended():
            self._bury(seat, now)
        for seat in self._seats:
            if seat.revival.is_due(now):
                seat.begin()
        return self._moves()

    def _ended(self) -> list[_Seat]:
        """Whose actor has died, and nobody has taken that in."""
        living = {seat.serves: seat for seat in self._seats if not seat.revival.is_known}
        ended, _ = ray.wait([*living], num_returns=len(living), timeout=0) if living else ([], [])
        return [living[call] for call in ended]

    def _bury(self, seat: _Seat, now: float) -> None:
        ray.kill(seat.actor)  # one that Ray cannot reach may live
        seat.revival.died(now, seat.obituary())
        _log.warning("%s; %s", seat.revival.words, seat.revival.outlook)

    def _moves(self) -> dict[Address, Address]:
        """Of those that have begun to listen since they were started again."""
        moves = {}
        for seat in self._seats:
            old, new = seat.address, seat.find(self._key)
            if old is not None and new is not None:
                moves[old] = new
        return moves

    def worked(self, address: Address) -> None:
        """The actor at ``address`` has done something, if it is one of these."""
        for seat in self._seats:
            if seat.address == address:
                seat.revival.worked()

    def fates(self) -> dict[Address, Fate]:
        """Of those that have died and not worked since, by where they were last."""
        return {
            seat.address: fate
            for seat in self._seats
            if seat.address is not None and (fate := seat.revival.fate) is not None
        }
