"""Random rows of logits and rules, and what a row may come to."""

from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from typing import Any

import torch

from glinthawk.tier1.sampling.draws import DrawRules

#: How near, as a share of all, a draw or the edge of a nucleus lies where rounding may decide.
CLOSE = 1e-6


@dataclass(frozen=True)
class Row:
    """What one row is drawn from, and by which rules."""

    logits: torch.Tensor
    rules: DrawRules
    #: Probabilities (V,) as temperature alone leaves them.
    probabilities: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        softmax = torch.softmax(self.logits.double() / self.rules.temperature, dim=-1)
        object.__setattr__(self, "probabilities", softmax)

    def kept(self, top_p: float, min_p: float) -> torch.Tensor:
        """Probabilities (V,), zero where they are truncated: all is sorted, in doubles."""
        ordered, order = self.probabilities.sort(descending=True, stable=True)
        if self.rules.top_k > 0:
            ordered = ordered.clone()
            ordered[self.rules.top_k :] = 0
        keep = ordered >= min_p * ordered[0]
        if top_p < 1:
            keep &= ordered.cumsum(0) - ordered < top_p * ordered.sum()
        keep[0] = True
        return torch.zeros_like(ordered).index_put((order,), ordered * keep)

    def allows(self, token: int) -> bool:
        """Whether rounding alone decides against ``token``, if anything does."""
        rules = self.rules
        return any(
            self._draws(token, self.kept(top_p, min_p))
            for top_p in {rules.top_p, *(_near(rules.top_p) if rules.top_p < 1 else ())}
            for min_p in {rules.min_p, *_near(rules.min_p)}
        )

    def _draws(self, token: int, kept: torch.Tensor) -> bool:
        heights = kept.cumsum(0) / kept.sum()
        above = float(heights[token])
        below = float(heights[token - 1]) if token else 0.0
        return bool(kept[token] > 0) and below - CLOSE <= self.rules.uniform <= above + CLOSE


def _near(value: float) -> tuple[float, float]:
    return value * (1 - CLOSE), min(value * (1 + CLOSE), 1.0)


class Cases:
    """Random rows, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def pick(self, values: Many[Any]) -> Any:
        return values[int(torch.randint(len(values), (), generator=self._generator))]

    def number(self) -> float:
        return float(torch.rand((), generator=self._generator, dtype=torch.float64))

    def rules(self, size: int) -> DrawRules:
        return DrawRules(
            self.pick([0.01, 0.3, 0.8, 1.0, 1.0, 3.0, 50.0]),
            self.pick([-1, 0, 0, 0, 1, 2, 5, 40, size // 2, size, size + 3]),
            self.pick([1.0, 1.0, 0.99, 0.95, 0.9, 0.5, 1e-6, self.number() or 1.0]),
            self.pick([0.0, 0.0, 0.0, 0.05, 0.5, 1.0, self.number()]),
            self.number(),
        )

    def logits(self, count: int, size: int) -> torch.Tensor:
        """(count, size): flat or steep, with many ties or few, with impossible tokens or none."""
        rows = torch.randn(count, size, generator=self._generator)
        rows *= self.pick([0.01, 1.0, 3.0, 10.0])
        if self.pick([False, True]):
            rows = rows.round(decimals=self.pick([0, 1]))
        rows += self.pick([0.0, 0.0, -30.0, 300.0])
        rows[torch.rand(count, size, generator=self._generator) < self.pick([0, 0, 0.3, 0.9])] = (
            float("-inf")
        )
        rows[:, self.pick(range(size))] = rows[:, 0].clamp(-300, 300)  # one at least is possible
        dtypes = [torch.float32, torch.float32, torch.bfloat16, torch.bfloat16, torch.float16]
        return rows.to(self.pick(dtypes))
