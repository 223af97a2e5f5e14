"""One model laid over machines: a value that is simulated, printed, stored and run."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import msgspec

from glinthawk.core.errors import UsageError
from glinthawk.core.shape import ModelShape
from glinthawk.core.spec import page_bytes

__all__ = ["Plan", "largest_page_bytes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Counts and sizes; machines by the names of the catalogue, if they are known."""

    model: str
    kv_dtype: str
    #: Pipeline slices: Tier-1 nodes in a row.
    slices: int = 1
    #: Tier-2 workers of each slice.
    workers_per_slice: int = 0
    #: Most sequences that take one step together, and most tokens.
    batch_size: int
    batch_tokens: int = 2048
    batches_in_flight: int = 1
    #: Bytes of KV cache on each Tier-1 node, and on each worker.
    tier1_kv: int
    worker_kv: int = 0
    #: Bytes of KV cache on each worker's drives, which then has room for as much as those; 0: it
    #: has none.
    worker_storage: int = 0
    #: Share of the tokens at workers whose layer inputs Tier 1's host keeps, to make their keys and
    #: values again beside what the workers attend to.
    xcache: float = 0.0
    #: Attention to KV at workers is computed there (``near`` the KV), or on Tier 1 from KV that is
    #: sent there at every step (``fetch``): what two tiers are compared with.
    kv_placement: Literal["near", "fetch"] = "near"
    tier1_machine: str | None = None
    tier2_machine: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.xcache < 1:
            raise UsageError(f"xcache is a share, from 0 to below 1, not {self.xcache:g}")

    def pages(self, shape: ModelShape) -> list[int]:
        """Pages of KV at each home, Tier 1 itself first: what the slice with most layers holds.

        A home is one place on every slice: worker 2 of all slices together is home 2. Every page
        has its place on the drives, where there are some; memory has copies, and pages not full.
        """
        num_bytes = largest_page_bytes(shape.cut(self.slices), self.kv_dtype)
        worker = self.worker_storage or self.worker_kv
        sizes = [self.tier1_kv, *[worker] * self.workers_per_slice]
        return [size // num_bytes for size in sizes]

    def most_tails(self, page_bytes: int) -> int | None:
        """Sequences that a worker with drives takes at most, None: as many as its pages hold. The
        last page of each stays in memory until it is full; half of memory is left for pages that
        are read.

        >>> # 64 GiB of memory and pages of 4 MiB: 8192 sequences
        """
        return self.worker_kv // page_bytes // 2 if self.worker_storage else None

    def save(self, path: Path) -> None:
        """As JSON, for ``load``."""
        path.write_bytes(msgspec.json.format(msgspec.json.encode(asdict(self))) + b"\n")

    @classmethod
    def load(cls, path: Path) -> "Plan":
        """Raises UsageError when the file is none that ``save`` wrote."""
        try:
            content = msgspec.json.decode(path.read_bytes())
        except OSError as error:
            raise UsageError(f"cannot read the plan {path}: {error.strerror}") from error
        except msgspec.DecodeError as error:
            raise UsageError(f"{path} is not JSON: {error}") from error
        known = {field.name for field in fields(cls)}
        if not isinstance(content, dict) or (unknown := content.keys() - known):
            wrong = f" {sorted(unknown)[0]!r}" if isinstance(content, dict) else ""
            raise UsageError(f"{path} is not a plan{wrong}; write one with `glinthawk plan --out`")
        try:
            return msgspec.convert(content, cls)
        except (UsageError, msgspec.ValidationError) as error:
            raise UsageError(f"{path} is not a plan: {error}") from error


def largest_page_bytes(slices: Iterable[ModelShape], kv_dtype: str) -> int:
    """Bytes of one page of KV on the slice that has most of it."""
    return max(page_bytes(part.attention, kv_dtype) for part in slices)
