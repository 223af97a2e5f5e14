"""Costs of a slice from a profile, and word of what lies beyond it."""

from collections.abc import Sequence
from functools import lru_cache

from glinthawk.core.errors import UsageError
from glinthawk.core.shape import ModelShape
from glinthawk.planner.costs import LinkCost
from glinthawk.planner.profile import Grid, Profile

__all__ = ["Measured"]


class Measured:
    """``SliceCosts`` of ``shape``, which is the profile's model (``num_layers`` of it) or a slice:
    layers count alike. ``link`` replaces the profile's own.

    Raises UsageError when the profile has no attention of this ``kv_dtype``.
    """

    def __init__(
        self,
        profile: Profile,
        shape: ModelShape,
        num_layers: int,
        kv_dtype: str,
        link: LinkCost | None = None,
    ) -> None:
        if kv_dtype not in profile.far and kv_dtype not in profile.near:
            raise UsageError(
                f"the profile has no attention with KV in {kv_dtype}; measure it with "
                f"`glinthawk profile --kv-dtype {kv_dtype}`"
            )
        self.shape, self.kv_dtype = shape, kv_dtype
        self.link = link or LinkCost(profile.link_latency_s, profile.link_bytes_per_s)
        self._profile = profile
        self._share = len(shape.layers) / num_layers
        self._beyond: dict[str, tuple[float, float]] = {}
        self.prompt_one_s = lru_cache(maxsize=4096)(self._prompt_one_s)

    @property
    def notes(self) -> list[str]:
        """What was asked for beyond the sizes that were measured."""
        return [
            f"{what} of {asked:g} was extrapolated from {largest:g}"
            for what, (asked, largest) in sorted(self._beyond.items())
        ]

    def dense_s(self, rows: int, logits: int) -> float:
        profile = self._profile
        self._note("a step's rows", rows, profile.dense.largest)
        seconds = self._share * profile.dense.at(rows)
        return seconds + profile.head.at(logits) if logits else seconds

    def prompt_s(self, lengths: Sequence[int]) -> float:
        return sum(map(self.prompt_one_s, lengths))

    def _prompt_one_s(self, length: int) -> float:
        """Beyond the longest prompt that was measured its attention grows with the square."""
        curve = self._profile.prompt
        self._note("a prompt's length", length, curve.largest)
        factor = max(1.0, length / curve.largest) ** 2
        return self._share * factor * curve.at(min(length, curve.largest))

    def near_s(self, rows: int, kv_tokens: int) -> float:
        return self._attention_s("Tier 1", self._profile.near, rows, kv_tokens)

    def far_s(self, rows: int, kv_tokens: int) -> float:
        return self._attention_s("a worker", self._profile.far, rows, kv_tokens)

    def _attention_s(self, where: str, grids: dict[str, Grid], rows: int, kv_tokens: int) -> float:
        grid = grids.get(self.kv_dtype)
        if grid is None:
            raise UsageError(f"the profile has no attention at {where} in {self.kv_dtype}")
        context = kv_tokens / rows
        self._note(f"the context at {where}", context, grid.largest)
        return self._share * grid.at(rows, context)

    def store_s(self, tokens: int) -> float:
        return self._share * self._profile.store[self.kv_dtype] * tokens

    def drive_s(self, rows: int, read_tokens: float, written_tokens: float) -> float:
        """At the rate of direct reads: writes have not been measured; windows are not counted."""
        rate = self._profile.storage_bytes_per_s
        if rate is None:
            return 0.0
        return (read_tokens + written_tokens) * self.shape.kv_bytes_per_token(self.kv_dtype) / rate

    def rebuild_s(self, tokens: int) -> float:
        """As much of a step of so many rows as the projections are of its multiplications: inputs
        are in the memory that Tier 1 computes from."""
        shape = self.shape
        active = sum(layer.active_params for layer in shape.layers)
        share = shape.rebuild_flops / (2 * active)
        return self._share * share * self._profile.dense.at(tokens)

    def parcel_s(self, rows: int, prompt_tokens: int) -> float:
        seconds = self._profile.prompt_parcel * prompt_tokens
        if rows:
            seconds += self._profile.parcel.at(rows)
        return self._share * seconds

    def step_s(self, spans: int) -> float:
        return self._profile.step.at(spans)

    def _note(self, what: str, asked: float, largest: float) -> None:
        if asked > 1.05 * largest and asked > self._beyond.get(what, (0.0, 0.0))[0]:
            self._beyond[what] = (asked, largest)
