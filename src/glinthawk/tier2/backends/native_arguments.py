"""What the C++ kernels are called with: layers, plans, and tensors that they may read."""

from collections.abc import Sequence

import torch

from glinthawk import _native
from glinthawk.core.errors import WireError
from glinthawk.core.spec import AttentionLayer
from glinthawk.tier2.pages.page_table import SpanTable

__all__ = ["check_column", "check_rows", "make_layers", "make_plan", "name_dtype"]

_DTYPE_NAMES = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}


def make_layers(layers: Sequence[AttentionLayer]) -> "list[_native.Layer]":
    """As the kernels know them. Raises ValueError."""
    return [_native_layer(layer) for layer in layers]


def _native_layer(layer: AttentionLayer) -> "_native.Layer":
    if layer.window is not None and layer.window < 1:
        raise ValueError("a window is at least one token")
    if layer.softcap is not None and not layer.softcap > 0:
        raise ValueError("a softcap is above 0")
    return _native.make_layer(
        num_heads=layer.num_heads,
        num_kv_heads=layer.num_kv_heads,
        head_dim=layer.head_dim,
        value_dim=layer.value_dim,
        scaling=layer.scaling,
        window=min(layer.window or 0, 2**31 - 1),
        softcap=layer.softcap or 0.0,
        sinks=list(layer.sinks or ()),
    )


def make_plan(table: SpanTable, num_pages: int, page_tokens: int) -> "_native.Plan":
    """Of ``table``, whose pages are some of ``num_pages``. Raises WireError."""
    columns = [
        check_column(name, getattr(table, name))
        for name in ("starts", "lengths", "pages", "offsets")
    ]
    starts, lengths, pages, offsets = columns
    if len(starts) != len(lengths) or len(offsets) != len(starts) + 1:
        raise WireError("a table needs as many starts as lengths, and one more offset")
    oldest = None if table.oldest is None else check_column("oldest", table.oldest)
    if oldest is not None and len(oldest) != len(starts):
        raise WireError("a table needs as many oldest tokens as starts, or none")
    try:
        return _native.make_plan(
            starts=starts.data_ptr(),
            lengths=lengths.data_ptr(),
            num_spans=len(starts),
            pages=pages.data_ptr(),
            num_pages=len(pages),
            offsets=offsets.data_ptr(),
            oldest=0 if oldest is None else oldest.data_ptr(),
            num_rows=table.num_rows,
            page_limit=num_pages,
            page_tokens=page_tokens,
        )
    except (ValueError, TypeError) as error:
        raise WireError(f"a table does not fit this KV cache: {error}") from error


def check_column(name: str, column: torch.Tensor) -> torch.Tensor:
    """``column`` of a table, in one piece. Raises WireError."""
    if column.dtype != torch.int32 or column.dim() != 1 or column.device.type != "cpu":
        raise WireError(f"{name} of a table must be a list of int32 on the CPU")
    return column.contiguous()


def check_rows(name: str, rows: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """``rows`` if it is what the kernels may read; copied only where it has gaps.
    Raises WireError."""
    if tuple(rows.shape) != shape:
        raise WireError(f"{name} must have shape {shape}, not {tuple(rows.shape)}")
    if rows.dtype not in _DTYPE_NAMES or rows.device.type != "cpu":
        raise WireError(f"{name} must be float32, bfloat16 or float16 on the CPU")
    return rows.contiguous()


def name_dtype(rows: torch.Tensor) -> str:
    """As the kernels know it."""
    return _DTYPE_NAMES[rows.dtype]
