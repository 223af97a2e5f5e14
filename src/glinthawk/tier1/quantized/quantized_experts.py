"""A mixture's experts whose weights stay quantised: each is linear layers of its own."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.core_model_loading import WeightConverter

__all__ = [
    "DOWN",
    "JOINED",
    "ExpertNames",
    "QuantizedExperts",
    "find_names",
    "has_experts",
    "joined_part",
    "make_experts",
]

#: transformers' tensors of all experts: gate and up in one, and down.
JOINED = "gate_up_proj"
DOWN = "down_proj"
#: Makes what stands in the place of a linear layer, whose full name comes first.
_Make = Callable[[str, nn.Linear], nn.Module]


@dataclass(frozen=True, slots=True)
class ExpertNames:
    """What checkpoints call the linear layers of an expert."""

    #: Gate and up, or one that gives both.
    gates: tuple[str, ...]
    down: str


class QuantizedExperts(nn.ModuleList):
    """In the place of a model's own experts: child e has the layers of expert e. Experts are
    computed one after the other, each over the rows that chose it."""

    def __init__(
        self,
        names: ExpertNames,
        gate: Callable[[torch.Tensor], torch.Tensor],
        experts: Iterable[nn.ModuleDict],
    ) -> None:
        super().__init__(experts)
        self._names, self._gate = names, gate

    def forward(
        self, rows: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """(T, hidden), and (T, k) experts with their weights -> (T, hidden)."""
        output = torch.zeros_like(rows)
        for number in chosen.unique().tolist():
            token, place = torch.where(chosen == number)
            part = self._ask(self[number], rows[token]) * weights[token, place, None]
            output.index_add_(0, token, part.to(output.dtype))
        return output

    def _ask(self, expert: Any, rows: torch.Tensor) -> torch.Tensor:
        gates = [expert[name](rows) for name in self._names.gates]
        joined = gates[0] if len(gates) == 1 else torch.cat(gates, dim=-1)
        answer: torch.Tensor = expert[self._names.down](self._gate(joined))
        return answer


def has_experts(module: nn.Module) -> bool:
    """Whether it holds the weights of many experts in one tensor."""
    return any(
        name in (JOINED, DOWN, "up_proj") and parameter.dim() == 3
        for name, parameter in module.named_parameters(recurse=False)
    )


def find_names(conversions: Sequence[Any]) -> ExpertNames | None:
    """By what transformers does to read a family's checkpoints; None if it does not join layers of
    single experts."""
    found: dict[str, tuple[str, ...]] = {}
    for one in conversions:
        if (part := joined_part(one)) is not None:
            found[part] = tuple(source.split(".")[-2] for source in one.source_patterns)
    if found.keys() != {JOINED, DOWN} or len(found[DOWN]) != 1:
        return None
    return ExpertNames(found[JOINED], *found[DOWN])


def joined_part(conversion: Any) -> str | None:
    """The tensor that single experts' layers are joined to."""
    if not isinstance(conversion, WeightConverter):
        return None
    place, _, part = conversion.target_patterns[0].rpartition(".")
    sources = conversion.source_patterns
    is_joined = all("experts.*." in one and one.endswith(".weight") for one in sources)
    return part if is_joined and place.endswith("experts") and part in (JOINED, DOWN) else None


def make_experts(path: str, own: Any, names: ExpertNames, make: _Make) -> QuantizedExperts:
    """In the place of ``own``, which is called ``path``. Raises ValueError for experts that are
    more than gate, up and down."""
    if not getattr(own, "has_gate", False) or own.has_post_expert_norm:
        raise ValueError(f"{path} are {type(own).__name__}, which are not understood")
    joined, down = getattr(own, JOINED), getattr(own, DOWN)
    count, hidden, width = (down.shape[n] for n in ((0, 2, 1) if own.is_transposed else (0, 1, 2)))
    outputs = 2 * width // len(names.gates)
    sizes = {**dict.fromkeys(names.gates, (hidden, outputs)), names.down: (width, hidden)}

    def make_one(number: int) -> nn.ModuleDict:
        layers = {
            name: make(
                f"{path}.{number}.{name}",
                nn.Linear(*size, own.has_bias, joined.device, joined.dtype),
            )
            for name, size in sizes.items()
        }
        return nn.ModuleDict(layers)

    return QuantizedExperts(names, own._apply_gate, map(make_one, range(count)))
