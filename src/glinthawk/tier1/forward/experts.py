"""Arithmetic of a mixture of experts that is the same for a row, whoever else chose the expert.

How many rows an expert gets depends on all rows of a pass. So products are cut into blocks of one
size. Curves, such as a sigmoid, torch computes with vector instructions but for what is left over
at the end, and at the end of each thread's share of more than some thousand elements; there a last
bit may differ. So they get whole vectors, and too few for two threads.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import gelu, linear, mish, pad, silu, softplus
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

__all__ = ["FixedProducts", "fill_up", "spread_experts"]

#: Rows of a block. Experts get few: more would be zeros that are multiplied.
_ROWS = 16
#: As transformers calls it.
_SPREAD = "eager"
#: Elements of two vectors of the widest instruction set, in the smallest type; and fewer elements
#: than torch gives to a second thread.
_VECTORS, _ONE_THREAD = 64, (1 << 14) - 1
_CURVES = {
    *(silu, gelu, mish, softplus, torch.sigmoid, torch.tanh, torch.exp, torch.erf),
    *(torch.Tensor.sigmoid, torch.Tensor.tanh, torch.Tensor.exp, torch.Tensor.erf),
}
_PRODUCTS = {linear, torch.matmul, torch.mm, torch.Tensor.matmul, torch.Tensor.__matmul__}


class FixedProducts(TorchFunctionMode):
    """While it is entered, products of rows (T, in) with one matrix, and curves of such rows, are
    computed in blocks. Most modules see a pass's own rows as (1, T, in), which stay whole."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _PRODUCTS and not kwargs and args[0].dim() == args[1].dim() == 2:
            return _in_blocks(func, *args)
        if func in _CURVES and args and _is_plain(args[0]) and not kwargs.get("inplace"):
            return _in_vectors(func, *args, **kwargs)
        return func(*args, **kwargs)


def _is_plain(x: torch.Tensor) -> bool:
    """Whether threads of a CPU would share it out."""
    return x.dim() == 2 and x.device.type == "cpu"


def _in_blocks(product: Any, x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
    blocks = x.split(_ROWS)
    return torch.cat([product(fill_up(rows, _ROWS), *weights)[: len(rows)] for rows in blocks])


def _in_vectors(curve: Any, x: torch.Tensor, *others: Any, **options: Any) -> torch.Tensor:
    columns = x.shape[1]
    filled = pad(x, (0, -columns % _VECTORS)).contiguous()
    parts = filled.split(max(1, _ONE_THREAD // filled.shape[1]))
    return torch.cat([curve(part, *others, **options) for part in parts])[:, :columns]


def fill_up(rows: torch.Tensor, size: int) -> torch.Tensor:
    """(T, ...) -> (size, ...), zeros behind."""
    missing = size - len(rows)
    return rows if not missing else pad(rows, (0, 0) * (rows.dim() - 1) + (0, missing))


def spread_experts(model: PreTrainedModel) -> bool:
    """Let ``model`` compute its experts one after the other, each by a product over its rows; False
    if it has none that it computes in another way."""
    if getattr(model.config.get_text_config(), "_experts_implementation", None) in (None, _SPREAD):
        return False
    model.set_experts_implementation(_SPREAD)
    return True
