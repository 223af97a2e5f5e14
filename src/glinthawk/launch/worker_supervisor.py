"""The homes of a node: opened at start, and opened again when they were lost."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from glinthawk.core.config import ANSWER_S, SplitAttention
from glinthawk.core.errors import WorkerError, WorkerLost, WorkerRefused
from glinthawk.launch.joiners import Joiners
from glinthawk.launch.local_processes import LocalProcesses
from glinthawk.launch.revival import Fate
from glinthawk.tier1.kv.fetching import PageAttention
from glinthawk.tier1.kv.home import WorkerHome
from glinthawk.tier1.kv.home_factory import group_workers, make_home
from glinthawk.tier1.model.loader import LoadedModel
from glinthawk.tier1.xcache.share import XShare
from glinthawk.wire.address import Address
from glinthawk.wire.client_channel import ClientChannel
from glinthawk.wire.keys import Identity

__all__ = ["WorkerSupervisor"]

_log = logging.getLogger(__name__)

_START_S = 120.0
#: How often a starting worker's process is looked at, and a lost one is tried again.
_LOOK_S = 0.2
_RETRY_S = 0.5


@dataclass(slots=True)
class _Trial:
    """A home that is being opened."""

    home: WorkerHome | None = None
    next_s: float = field(default_factory=time.monotonic)

    def wait(self) -> None:
        """Until there may be an answer."""
        if self.home is None:
            time.sleep(_LOOK_S)
        else:
            self.home.links[0].channel.wait(_LOOK_S)


class WorkerSupervisor:
    """Opens a home for each worker, or one for all, numbered from 1: those at ``addresses`` first,
    then those started here. Closes all at the end, whatever happened between. With ``attention``,
    the workers' KV is attended here. With a ``kernel``, workers that attend by another one are
    refused; an empty one is the first worker's. ``joiners`` may become homes later."""

    def __init__(
        self,
        workers: LocalProcesses,
        identity: Identity | None,
        addresses: Sequence[Address],
        loaded: LoadedModel,
        kv_dtype: str,
        silence_s: float,
        split: SplitAttention = "sequence",
        attention: PageAttention | None = None,
        x_share: XShare | None = None,
        kernel: str | None = None,
        joiners: Joiners | None = None,
    ) -> None:
        self._workers, self._identity = workers, identity
        groups = group_workers(split, [*addresses, *workers.addresses])
        self._addresses = dict(enumerate(groups, start=1))
        self._split, self._attention, self._x_share = split, attention, x_share
        self._kernel = kernel
        self._loaded, self._kv_dtype, self._silence_s = loaded, kv_dtype, silence_s
        self._joiners = joiners
        #: Homes of those that have asked to be taken; they ask again when they were lost.
        self._guests: set[int] = set()
        self._refusals: set[str] = set()
        self._num_homes = len(groups)
        self._open: dict[int, WorkerHome] = {}
        self._trials: dict[int, _Trial] = {}

    def __enter__(self) -> "WorkerSupervisor":
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as stack:
            for home in self._open.values():
                stack.callback(home.close)
            for home in [trial.home for trial in self._trials.values() if trial.home]:
                stack.callback(home.close)

    @property
    def is_expecting(self) -> bool:
        """Whether a lost home may still come back, or another one join."""
        if self._joiners is not None:
            return True
        fates = self.fates()
        return any(number not in fates or not fates[number].is_over for number in self._trials)

    def fates(self) -> dict[int, Fate]:
        """Of homes that are away, those whose processes have died."""
        said = self._workers.fates() if self._trials else {}
        fates = {}
        for number in self._trials:
            dead = [said[address] for address in self._addresses[number] if address in said]
            if dead:
                fates[number] = max(dead, key=lambda fate: fate.is_over)
        return fates

    def open_all(self) -> list[WorkerHome]:
        """The homes of all workers. Raises WorkerError if one cannot be opened."""
        for number in self._addresses:
            self._trials[number] = _Trial()
            self._await(number)
            self._take_seat(number)
        return list(self._open.values())

    def lose(self, number: int) -> None:
        """Close a home, and begin to try to open it again, unless that is under way."""
        if (home := self._open.pop(number, None)) is not None:
            home.close()
            if number in self._guests:
                self._forget(number)
            else:
                self._trials[number] = _Trial()

    def reset(self) -> None:
        """Lose all homes, those that are just being opened too."""
        homes = [*self._open.values(), *(trial.home for trial in self._trials.values())]
        self._open.clear()
        self._trials = {number: _Trial() for number in self._addresses}
        for home in filter(None, homes):
            home.close()

    def returned(self) -> Iterator[WorkerHome]:
        """Homes that are open again, or for the first time. Never waits."""
        if self._trials:
            self._workers.revive()
        self._welcome()
        for number in list(self._trials):
            try:
                if not self._has_opened(number):
                    continue
            except WorkerError as error:
                _log.info("not yet: %s", error)
                self._refuse(number, error)
                continue
            yield self._take_seat(number)

    def _welcome(self) -> None:
        """Begin to open homes for those that have asked."""
        known = {address for group in self._addresses.values() for address in group}
        for address in self._joiners.arrived() if self._joiners is not None else ():
            if address not in known:
                known.add(address)
                self._num_homes += 1
                _log.info("worker %d at %s would join", self._num_homes, address.endpoint)
                self._addresses[self._num_homes] = [address]
                self._trials[self._num_homes] = _Trial()
                self._guests.add(self._num_homes)

    def _refuse(self, number: int, error: WorkerError) -> None:
        """A guest that cannot be opened may ask again; that is said once."""
        if number in self._guests:
            if str(error) not in self._refusals:
                _log.warning("a worker that would join: %s", error)
            self._refusals.add(str(error))
            self._forget(number)

    def _forget(self, number: int) -> None:
        self._trials.pop(number, None)
        self._guests.discard(number)
        del self._addresses[number]

    def _take_seat(self, number: int) -> WorkerHome:
        """A trial has ended well."""
        home = self._trials.pop(number).home
        assert home is not None
        self._open[number] = home
        return home

    def worked(self, number: int) -> None:
        """A step that had rows at this home is taken."""
        for address in self._addresses.get(number, ()):
            self._workers.worked(address)

    def move(self, old: Address, new: Address) -> None:
        """The worker at ``old`` has come up again at ``new``, where it is looked for from now on.
        A home that is still open there is lost when it is found to be."""
        for number, group in self._addresses.items():
            if old in group:
                self._addresses[number] = [new if own == old else own for own in group]
                if number in self._trials:
                    self._end_trial(number)

    def _end_trial(self, number: int) -> None:
        """It begins anew."""
        home, self._trials[number] = self._trials[number].home, _Trial()
        if home is not None:
            home.close()

    def _begin(self, number: int) -> WorkerHome:
        with ExitStack() as undo:
            channels = [
                undo.enter_context(ClientChannel(address, self._identity, self._silence_s))
                for address in self._addresses[number]
            ]
            device = self._loaded.model.device
            home = make_home(
                self._split,
                number,
                channels,
                self._loaded.spec,
                device,
                attention=self._attention,
                own=self._x_share,
            )
            home.open(self._kv_dtype)
            undo.pop_all()
        return home

    def _await(self, number: int) -> None:
        """Return when a home is open. One that is still starting is given time, unless it dies;
        when its connection breaks, or a message is lost, it is asked anew. Raises WorkerError."""
        addresses = self._addresses[number]
        is_local = not set(addresses).isdisjoint(self._workers.addresses)
        within_s = _START_S if is_local else ANSWER_S
        places = ", ".join(address.endpoint for address in addresses)
        problem = WorkerLost(f"no answer from {places} in {within_s:g} s", home=number)
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            try:
                if self._has_opened(number):
                    return
            except WorkerLost as error:
                problem = error
            self._workers.check()
            self._trials[number].wait()
        raise problem

    def _has_opened(self, number: int) -> bool:
        """Look at the answer to a trial's last question; ask anew, some time after it failed.
        Raises WorkerError when it has."""
        trial = self._trials[number]
        if trial.home is None:
            if time.monotonic() >= trial.next_s:
                trial.home = self._begin(number)
            return False
        try:
            if not trial.home.has_opened():
                return False
            self._check_kernel(trial.home)
        except WorkerError:
            trial.home.close()
            trial.home, trial.next_s = None, time.monotonic() + _RETRY_S
            raise
        return True

    def _check_kernel(self, home: WorkerHome) -> None:
        if self._kernel is None:
            return
        self._kernel = self._kernel or home.kernel
        if home.kernel != self._kernel:
            raise WorkerRefused(
                f"worker {home.id} attends by {home.kernel}, not by {self._kernel}: answers would "
                "depend on where they are made; use machines alike, or leave --batch-invariant out"
            )
