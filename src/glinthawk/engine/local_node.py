"""Tier 1 in this process: a node, and homes that come and go."""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import torch
import zmq

from glinthawk.core.batch import Batch
from glinthawk.core.config import ANSWER_S
from glinthawk.core.errors import WorkerError, WorkerLost
from glinthawk.engine.tier import Done, TierEvent
from glinthawk.launch.revival import Fate
from glinthawk.launch.worker_supervisor import WorkerSupervisor
from glinthawk.scheduler.commands import HomeJoined, HomeLost
from glinthawk.scheduler.step_cost import TIER1, StepCost
from glinthawk.telemetry.reading import Glance
from glinthawk.telemetry.usage import Usage
from glinthawk.tier1.kv.home import Home
from glinthawk.tier1.kv.link import Traffic
from glinthawk.tier1.node import Node
from glinthawk.tier1.step_result import StepResult
from glinthawk.wire.address import Address

__all__ = ["LocalNode"]

_log = logging.getLogger(__name__)

#: How long to wait between looks at homes that may come back.
_LOOK_S = 0.1
#: Faults that a worker answers without a step between them before it is our own fault.
_MOST_FAULTS = 5


class LocalNode:
    """``step_cost`` is what was measured at start; ``supervisor`` opens lost homes again."""

    def __init__(
        self,
        node: Node,
        homes: Sequence[Home],
        step_cost: StepCost | None = None,
        supervisor: WorkerSupervisor | None = None,
    ) -> None:
        self.node = node
        self._homes = {home.id: home for home in homes}
        self._step_cost, self._supervisor = step_cost, supervisor
        self._faults: Counter[int] = Counter()
        #: Tier 1's own home, once it has been emptied.
        self._renewed: dict[int, Home] = {}
        #: Over links that are no more.
        self._past_traffic: list[Traffic] = []

    @property
    def num_running(self) -> int:
        return self.node.num_running

    @property
    def is_expecting(self) -> bool:
        return bool(self._renewed) or (
            self._supervisor is not None and self._supervisor.is_expecting
        )

    @property
    def last_words(self) -> str:
        return "; ".join(fate.words for fate in self.fates().values())

    def fates(self) -> dict[int, Fate]:
        """Of homes that are away, those whose processes have died."""
        return {} if self._supervisor is None else self._supervisor.fates()

    def move(self, old: Address, new: Address) -> None:
        """A worker has come up again elsewhere."""
        if self._supervisor is not None:
            self._supervisor.move(old, new)

    def homes(self) -> list[HomeJoined]:
        return [_joined(home) for home in self._homes.values()]

    def start(self, batch: Batch, hidden: torch.Tensor | None = None) -> None:
        """``hidden`` is what the slice before this one made of the batch's rows (T, hidden)."""
        self.node.start(batch, hidden)

    def watch(self, socket: "zmq.Socket[bytes]") -> None:
        """Come back from ``poll`` when ``socket`` is readable."""
        self.node.watch(socket)

    def release(self, home: int, sequences: list[int]) -> None:
        self.node.release(home, sequences)

    def abort(self, batch_id: int) -> None:
        self.node.abort(batch_id)

    def lose(self, home: int) -> None:
        if home in self._homes:
            self._leave(home)
        if home not in self._renewed and self._supervisor is not None:
            self._supervisor.lose(home)

    def reset(self) -> None:
        self.node.reset()
        for home in self._homes.values():
            self._part_with(home)
        self._homes.clear()
        if self._supervisor is not None:
            self._supervisor.reset()

    def poll(self, timeout_s: float | None = None) -> list[TierEvent]:
        if self.is_expecting:
            timeout_s = _LOOK_S if timeout_s is None else min(timeout_s, _LOOK_S)
        try:
            done = self.node.poll(timeout_s)
        except WorkerError as error:
            return [self._lost(error)]
        for home in {span.home for batch, _ in done for span in batch.spans}:
            self._faults.pop(home, None)
            if self._supervisor is not None:
                self._supervisor.worked(home)
        joining = self._joining()
        if not (done or joining or self.num_running) and timeout_s:
            time.sleep(timeout_s)
        return [*(_done(batch, result) for batch, result in done), *joining]

    def step_cost(self) -> StepCost | None:
        if self._step_cost is None:
            return None
        speeds = self.node.attention.items()
        layers = self.node.num_layers
        return replace(
            self._step_cost, attend_s={home: layers * s.seconds_per_token for home, s in speeds}
        )

    def usage(self) -> Usage:
        usage = Usage([self.node.busy_s])
        links = [link for home in self._homes.values() for link in home.links]
        for link in links:
            with suppress(WorkerLost):  # one that has died since took its own count along
                stats = link.ask(ANSWER_S)
                usage.tier2_busy_s.append(stats.busy_s)
                usage.kv_bytes_peak += stats.kv_bytes_peak
        for traffic in [*self._past_traffic, *(link.traffic for link in links)]:
            usage.decode_bytes_out += traffic.decode_bytes_out
            usage.decode_bytes_back += traffic.decode_bytes_back
            usage.prefill_bytes += traffic.prefill_bytes
        usage.kv_bytes_peak += sum(home.kv_bytes_peak for home in self._homes.values())
        usage.xcache_bytes_peak = sum(home.xcache_bytes_peak for home in self._homes.values())
        return usage

    def glance(self) -> Glance:
        glance = Glance(self.node.busy_s)
        speeds = list(self.node.attention.items())
        glance.tier2_busy_s = {home: speed.total_s for home, speed in speeds if home != TIER1}
        homes = list(self._homes.values())
        live = [link.traffic for home in homes for link in home.links]
        for traffic in [*self._past_traffic, *live]:
            glance.bytes_out += traffic.decode_bytes_out + traffic.prefill_bytes
            glance.bytes_back += traffic.decode_bytes_back
        return glance

    def _lost(self, error: WorkerError) -> HomeLost:
        is_last = self._supervisor is None and len(self._homes) == 1
        if error.home is None or is_last:
            raise error
        self._faults[error.home] += not isinstance(error, WorkerLost)
        if self._faults[error.home] > _MOST_FAULTS:
            raise error
        _log.warning("%s; its sequences begin again elsewhere", error)
        self._leave(error.home)
        return HomeLost(error.home)

    def _leave(self, number: int) -> None:
        self.node.lose(number)
        self._part_with(self._homes.pop(number))

    def _part_with(self, home: Home) -> None:
        self._past_traffic += [link.traffic for link in home.links]
        if home.renew():
            self._renewed[home.id] = home

    def _joining(self) -> list[HomeJoined]:
        joining = list(self._renewed.values())
        self._renewed.clear()
        for returned in self._supervisor.returned() if self._supervisor is not None else ():
            _log.warning("worker %d is there again", returned.id)
            joining.append(returned)
        for home in joining:
            self._homes[home.id] = home
            self.node.join(home)
        return [_joined(home) for home in joining]


def _done(batch: Batch, result: object) -> Done:
    if isinstance(result, StepResult):
        return Done(batch, *result)
    return Done(batch, result)  # type: ignore[arg-type]  # the hidden state of a slice


def _joined(home: Home) -> HomeJoined:
    return HomeJoined(home.id, home.num_pages, home.page_tokens, home.most_sequences)
