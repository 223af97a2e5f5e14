"""Machines with a model's slices on them: what a step costs there, and the memory left for KV."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from glinthawk.core.errors import UsageError
from glinthawk.core.shape import ModelShape
from glinthawk.planner.catalogue import Machine
from glinthawk.planner.costs import LinkCost, SliceCosts
from glinthawk.planner.measured import Measured
from glinthawk.planner.profile import Profile
from glinthawk.planner.roofline import roofline_slices

__all__ = [
    "STORAGE_RESERVE",
    "TIER1_RESERVE",
    "WORKER_RESERVE",
    "Offer",
    "Rig",
    "measured_rigs",
    "offered_rigs",
]

#: Shares of a machine's memory that a plan leaves alone: for activations, logits and what arrives
#: on Tier 1, for parcels and pages that are being read on a worker; and of its drives, which
#: become slow when they are full.
TIER1_RESERVE = 0.05
WORKER_RESERVE = 0.04
STORAGE_RESERVE = 0.1

#: Of slices and of workers a slice, at most so many numbers are tried.
_NUMBERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """``costs`` are of the slices in order. ``workers`` are the numbers a slice may have; machines
    are None where they are just this one."""

    shape: ModelShape
    costs: Sequence[SliceCosts]
    kv_dtype: str
    workers: tuple[int, ...]
    #: Bytes for KV on a Tier-1 node beside its weights, and on a worker.
    tier1_kv: int
    worker_kv: int
    #: And on a worker's drives.
    worker_storage: int = 0
    #: Bytes for layer inputs beside a Tier-1 node.
    host_memory: int = 0
    tier1: Machine | None = None
    tier2: Machine | None = None

    @property
    def slices(self) -> int:
        return len(self.costs)

    def dollars_per_hour(self, workers: int) -> float | None:
        """Of all machines; None where a price is not known."""
        if self.tier1 is None or self.tier1.dollars_per_hour is None:
            return None
        far = self.tier2.dollars_per_hour if self.tier2 and workers else 0.0
        return None if far is None else self.slices * (self.tier1.dollars_per_hour + workers * far)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Kinds of machines, and how many there are of each at most. One kind makes up a tier."""

    tier1: tuple[Machine, ...]
    tier2: tuple[Machine, ...] = ()
    tier1_count: int = 8
    tier2_count: int = 24
    #: One way, between any two machines.
    latency_s: float = 1e-4


def offered_rigs(
    shape: ModelShape, offer: Offer, kv_dtypes: Sequence[str], dropped: Counter[str]
) -> Iterator[Rig]:
    """All ways to lay slices over the machines of ``offer``; those that fail are counted."""
    most = min(offer.tier1_count, len(shape.layers))
    for tier1 in offer.tier1:
        fitting = []
        for count in range(1, most + 1):
            if _kv_memory(shape, count, tier1) < 0:
                dropped[f"the weights do not fit into so few {tier1.name}"] += 1
            else:
                fitting.append(count)
        for slices in _thin(fitting):
            for tier2 in (None, *offer.tier2):
                for kv_dtype in kv_dtypes:
                    yield from _rig(shape, slices, tier1, tier2, offer, kv_dtype)


def _rig(
    shape: ModelShape,
    slices: int,
    tier1: Machine,
    tier2: Machine | None,
    offer: Offer,
    kv_dtype: str,
) -> Iterator[Rig]:
    """One, unless there are too few workers for every slice to have one."""
    workers = _thin(range(1, offer.tier2_count // slices + 1)) if tier2 else [0]
    if workers:
        link = LinkCost(offer.latency_s, tier1.network)
        yield Rig(
            shape=shape,
            costs=roofline_slices(shape, slices, tier1, tier2, link, kv_dtype),
            kv_dtype=kv_dtype,
            workers=tuple(workers),
            tier1_kv=_kv_memory(shape, slices, tier1),
            worker_kv=int(tier2.memory * (1 - WORKER_RESERVE)) if tier2 else 0,
            worker_storage=int(tier2.storage * (1 - STORAGE_RESERVE)) if tier2 else 0,
            host_memory=tier1.host_memory if tier1.host_bandwidth else 0,
            tier1=tier1,
            tier2=tier2,
        )


def measured_rigs(
    shape: ModelShape,
    profile: Profile,
    memory: int,
    kv_dtypes: Sequence[str] = (),
    link: LinkCost | None = None,
    storage: int = 0,
) -> Iterator[Rig]:
    """This machine as it was measured: Tier 1 alone, and with a worker. ``memory`` is for all KV,
    and for layer inputs; ``storage`` are bytes on the worker's drives.

    Raises UsageError for a KV type or for drives that were not measured.
    """
    if storage and profile.storage_bytes_per_s is None:
        raise UsageError(
            "the profile has no drive: measure it with `glinthawk profile --storage DIR`"
        )
    half = memory // 2
    for kv_dtype in kv_dtypes or list(profile.near):
        costs = Measured(profile, shape, len(shape.layers), kv_dtype, link)
        alone = partial(Rig, shape=shape, costs=[costs], kv_dtype=kv_dtype, workers=(0,))
        beside = partial(alone, workers=(1,))
        if kv_dtype in profile.near:
            yield alone(tier1_kv=memory, worker_kv=0)
        if kv_dtype in profile.far:
            on_drives = partial(beside, tier1_kv=0, worker_storage=storage)
            yield on_drives(worker_kv=memory)
            if storage and kv_dtype in profile.near and shape.inputs_over_kv(kv_dtype) < 1:
                yield on_drives(worker_kv=memory - half, host_memory=half)
            if kv_dtype in profile.near:
                yield beside(tier1_kv=half, worker_kv=memory - half)


def _kv_memory(shape: ModelShape, slices: int, machine: Machine) -> int:
    """What the largest slice leaves; below 0 it does not fit."""
    if machine.kind == "drive":
        raise UsageError(f"{machine.name} is a drive: it computes nothing; name a machine")
    weights = max(part.weight_bytes for part in shape.cut(slices))
    return int(machine.memory * (1 - TIER1_RESERVE)) - weights


def _thin(numbers: Sequence[int]) -> list[int]:
    """A few of them by about equal ratios, first and last included.

    >>> _thin(range(1, 28))
    [1, 2, 3, 4, 7, 11, 17, 27]
    """
    if len(numbers) <= _NUMBERS:
        return list(numbers)
    first, last = numbers[0], numbers[-1]
    ratio = (last / first) ** (1 / (_NUMBERS - 1))
    wanted = [first * ratio**power for power in range(_NUMBERS)]
    return sorted({min(numbers, key=lambda one: abs(one - number)) for number in wanted})
