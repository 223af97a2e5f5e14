"""Plain weights rounded to few bits, and the tensors of compressed-tensors that hold them."""

from dataclasses import dataclass
from typing import Any

import torch

from glinthawk.tier1.quantized.packed_codes import pack_columns

__all__ = ["SCHEMES", "RoundedForm"]

#: Shares of a group's range that its codes may span. Where the few largest weights are cut off, all
#: others are finer.
_SHARES = torch.linspace(1.0, 0.7, 13).tolist()
#: Rows whose candidates are compared at one time: a bound of memory.
_ROWS = 1024


@dataclass(frozen=True, slots=True)
class RoundedForm:
    """Symmetric integers, in compressed-tensors' form of that name."""

    name: str
    bits: int
    #: Whether inputs have scales in groups; else there is one a row.
    has_groups: bool
    #: What config.json says of activations, for engines that round those as well.
    activations: dict[str, Any] | None = None

    def settings(self, group: int, ignored: list[str]) -> dict[str, Any]:
        """config.json's ``quantization_config``, with groups of ``group`` inputs."""
        weights = {
            "num_bits": self.bits,
            "type": "int",
            "symmetric": True,
            "strategy": "group" if self.has_groups else "channel",
            "group_size": group if self.has_groups else None,
        }
        part = {
            "targets": ["Linear"],
            "weights": weights,
            "input_activations": self.activations,
            "output_activations": None,
        }
        return {
            "quant_method": "compressed-tensors",
            "format": self.name,
            "quantization_status": "compressed",
            "config_groups": {"group_0": part},
            "ignore": ignored,
        }

    def round(
        self, weight: torch.Tensor, group: int, importance: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """The tensors for a weight (N, K), by the ends of their names. ``importance`` (K,) is how
        much an error of each input counts: its mean square."""
        size = group if self.has_groups else weight.shape[1]
        codes, scales = _round(weight, self.bits, size, importance)
        if self.name == "int-quantized":
            return {"weight": codes, "weight_scale": scales}
        half = 1 << (self.bits - 1)
        return {
            "weight_packed": pack_columns((codes.int() + half).to(torch.uint8), self.bits),
            "weight_scale": scales,
            "weight_shape": torch.tensor(weight.shape),
        }


_TOKENS = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
#: By the names that they have among users.
SCHEMES = {
    "w4a16": RoundedForm("pack-quantized", 4, has_groups=True),
    "w8a16": RoundedForm("pack-quantized", 8, has_groups=False),
    "w8a8": RoundedForm("int-quantized", 8, has_groups=False, activations=_TOKENS),
}


def _round(
    weight: torch.Tensor, bits: int, size: int, importance: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 (N, K), and (N, K / size) of the weight's own type."""
    weigh = torch.ones(weight.shape[1]) if importance is None else importance.float()
    parts = [
        _round_groups(
            part.float().unflatten(1, (-1, size)), bits, weight.dtype, weigh.view(-1, size)
        )
        for part in weight.split(_ROWS)
    ]
    codes, scales = (torch.cat(both) for both in zip(*parts, strict=True))
    return codes.flatten(1), scales


def _round_groups(
    groups: torch.Tensor, bits: int, dtype: torch.dtype, weigh: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(R, G, size) -> int8 of that shape, and scales (R, G): of all shares of a group's range, the
    one of least error."""
    most = (1 << (bits - 1)) - 1
    largest = groups.abs().amax(-1, keepdim=True)
    best = torch.full_like(largest, torch.inf)
    kept = torch.zeros_like(largest)
    for share in _SHARES if bits < 8 else _SHARES[:1]:
        scale = _scale(largest * share / most, dtype)
        error = (_codes(groups, scale, most) * scale - groups).square()
        error = (error * weigh).sum(-1, keepdim=True)
        kept = torch.where(error < best, scale, kept)
        best = torch.minimum(best, error)
    return _codes(groups, kept, most).to(torch.int8), kept.squeeze(-1).to(dtype)


def _scale(exact: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """As it will be stored; never 0, by which nothing can be divided."""
    stored = exact.to(dtype).float()
    return torch.where(stored == 0, 1.0, stored)


def _codes(groups: torch.Tensor, scale: torch.Tensor, most: int) -> torch.Tensor:
    return (groups / scale).round().clamp(-most - 1, most)
