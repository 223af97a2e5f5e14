"""One model laid over machines: a value that is simulated, printed, stored and run."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path

import msgspec

from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.errors import UsageError
from glinthawk.core.shape import ModelShape

__all__ = ["Plan"]


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
    tier1_machine: str | None = None
    tier2_machine: str | None = None

    def pages(self, shape: ModelShape) -> list[int]:
        """Pages of KV at each home, Tier 1 itself first: what the slice with most layers holds.

        A home is one place on every slice: worker 2 of all slices together is home 2.
        """
        page_bytes = PAGE_TOKENS * max(
            part.kv_bytes_per_token(self.kv_dtype) for part in shape.cut(self.slices)
        )
        sizes = [self.tier1_kv, *[self.worker_kv] * self.workers_per_slice]
        return [size // page_bytes for size in sizes]

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
        except msgspec.ValidationError as error:
            raise UsageError(f"{path} is not a plan: {error}") from error
