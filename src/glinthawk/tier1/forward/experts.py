"""Products of a mixture of experts in blocks of fixed rows.

How many rows an expert gets depends on all rows of a pass. Cut into blocks of one size, a row's
product is computed the same way whoever else chose the expert.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import linear, pad
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

__all__ = ["FixedProducts", "fill_up", "spread_experts"]

#: Rows of a block. Experts get few: more would be zeros that are multiplied.
_ROWS = 16
#: As transformers calls it.
_SPREAD = "eager"
_PRODUCTS = {linear, torch.matmul, torch.mm, torch.Tensor.matmul, torch.Tensor.__matmul__}


class FixedProducts(TorchFunctionMode):
    """While it is entered, products of rows (T, in) with one matrix are computed in blocks. Most
    modules see a pass's own rows as (1, T, in), which stay whole."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func in _PRODUCTS and not kwargs and args[0].dim() == args[1].dim() == 2:
            return _in_blocks(func, *args)
        return func(*args, **(kwargs or {}))


def _in_blocks(product: Any, x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
    blocks = x.split(_ROWS)
    return torch.cat([product(fill_up(rows, _ROWS), *weights)[: len(rows)] for rows in blocks])


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
