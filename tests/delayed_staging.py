"""Copies that arrive late: a GPU's staging, with its events in the test's hands."""

import random
from collections.abc import Callable, Sequence

import torch

from glinthawk.tier1.device.staging import HostStaging

__all__ = ["LateCopy", "LateStaging", "often_late"]


class LateCopy:
    """Copies bytes when it happens, not before: what is written to the source until then shows."""

    def __init__(self, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self._pairs = pairs
        self.has_happened = False

    def query(self) -> bool:
        return self.has_happened

    @torch.inference_mode()
    def synchronize(self) -> None:
        if not self.has_happened:
            for source, target in self._pairs:
                target.copy_(source)
        self.has_happened = True


class LateStaging:
    """``is_due`` is asked, whenever somebody looks, whether a copy has happened by now."""

    def __init__(self, is_due: Callable[[], bool]) -> None:
        self._is_due = is_due
        self.num_copies = self.num_early_looks = 0

    def copy_out(self, tensors: Sequence[torch.Tensor]) -> tuple[list[memoryview], LateCopy]:
        targets = [torch.full_like(tensor.contiguous(), float("nan")) for tensor in tensors]
        frames, _ = HostStaging().copy_out(targets)
        self.num_copies += 1
        return frames, _Asked(self, list(zip(tensors, targets, strict=True)))

    def copy_in(
        self, frame: memoryview, dtype: torch.dtype, shape: tuple[int, ...]
    ) -> torch.Tensor:
        return HostStaging().copy_in(frame, dtype, shape)

    def look(self) -> bool:
        is_due = self._is_due()
        self.num_early_looks += not is_due
        return is_due


class _Asked(LateCopy):
    def __init__(
        self, staging: LateStaging, pairs: list[tuple[torch.Tensor, torch.Tensor]]
    ) -> None:
        super().__init__(pairs)
        self._staging = staging

    def query(self) -> bool:
        if not self.has_happened and self._staging.look():
            self.synchronize()
        return self.has_happened


def often_late(seed: int) -> Callable[[], bool]:
    numbers = random.Random(seed)
    return lambda: numbers.random() < 0.4
