"""Attention over KV pages in a GPU's memory: Triton kernels behind the Backend protocol."""

from subprocess import CalledProcessError
from typing import Any
from weakref import WeakKeyDictionary

import torch
import triton
import triton.language as tl

from glinthawk.core.errors import WireError, WorkerRefused
from glinthawk.core.spec import AttentionLayer
from glinthawk.tier2.backends.backend import UNREADABLE, Backend
from glinthawk.tier2.backends.triton_kernels import append_kernel, attend_kernel, merge_kernel
from glinthawk.tier2.backends.triton_layer import TritonLayer, power_of_two
from glinthawk.tier2.backends.triton_tables import StepTables
from glinthawk.tier2.pages.page_table import SpanTable

__all__ = ["TritonBackend", "is_interpreted"]

#: Tokens of a sequence that one program walks: enough to hide what a program costs, few enough that
#: a few sequences keep a GPU busy.
_CHUNK_TOKENS = 512
#: Bytes of keys, and of values, that a program holds at a time, twice over; GPUs have some 100 KiB.
_BLOCK_BYTES = 16_384
_LEAST_TOKENS, _MOST_TOKENS = 16, 64
#: Bytes of queries beside which the next block of keys and values finds room.
_MOST_QUERY_BYTES = 32_768

_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


def is_interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, TRITON_INTERPRET=1, and so on a CPU."""
    return not isinstance(attend_kernel, triton.runtime.JITFunction)


class TritonBackend(Backend):
    """Pages as (num_pages, K, page_tokens, D) tensors on a GPU.

    A sequence's output depends on nothing but the sequence. Calls return before the device is done.
    ``chunk_tokens``, a power of two from 16, is where sequences are cut among programs; a GPU that
    ``is_small`` has 64 KiB of shared memory.
    """

    def __init__(
        self,
        layers: tuple[AttentionLayer, ...],
        num_pages: int,
        page_tokens: int,
        kv_dtype: str,
        device: torch.device | str = "cuda",
        chunk_tokens: int = _CHUNK_TOKENS,
        is_small: bool = False,
    ) -> None:
        self._device = torch.device(device)
        if self._device.type == "cpu" and not is_interpreted():
            raise WorkerRefused("the triton backend needs a GPU; use the native backend on a CPU")
        assert chunk_tokens >= _LEAST_TOKENS
        assert chunk_tokens == power_of_two(chunk_tokens)
        self._page_tokens = page_tokens
        self._chunk_tokens = chunk_tokens
        shape = (num_pages, page_tokens)
        self._layers = [
            TritonLayer(layer, shape, kv_dtype, self._device, is_small) for layer in layers
        ]
        # A table serves every layer of a step, so what is made of it is kept as long as it is.
        self._prepared: WeakKeyDictionary[SpanTable, StepTables] = WeakKeyDictionary()

    @property
    def kernel(self) -> str:
        device = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "cpu"
        return f"triton {triton.__version__} on {device}"

    def append(
        self, layer: int, table: SpanTable, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        held, rows = self._layer(layer), table.num_rows
        spec = held.spec
        keys = self._rows("keys", keys, (rows, spec.num_kv_heads, spec.head_dim))
        values = self._rows("values", values, (rows, spec.num_kv_heads, spec.value_dim))
        _launch(
            append_kernel,
            (rows, spec.num_kv_heads),
            keys,
            values,
            *held.memory,
            self._tables(table).slots,
            *keys.stride()[:2],
            *values.stride()[:2],
            **held.sizes,
            **held.page_sizes,
            num_warps=1,
        )

    def attend(
        self, layer: int, table: SpanTable, queries: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        held, rows = self._layer(layer), table.num_rows
        spec = held.spec
        queries = self._rows("queries", queries, (rows, spec.num_heads, spec.head_dim))
        pieces = self._tables(table).pieces(held.cut)
        parts = self._room(pieces.num_parts, spec.num_heads, spec.value_dim)
        part_lses = self._room(pieces.num_parts, spec.num_heads)
        for size, some in zip(held.cut.rows, (pieces.narrow, pieces.wide), strict=True):
            if len(some):
                pages = self._tables(table).pages
                self._attend(held, queries, pages, some, parts, part_lses, size)
        output = torch.empty(
            rows, spec.num_heads, spec.value_dim, dtype=queries.dtype, device=self._device
        )
        lse = self._room(rows, spec.num_heads)
        _launch(
            merge_kernel,
            (rows, spec.num_kv_heads),
            parts,
            part_lses,
            pieces.merges,
            held.sinks,
            output,
            lse,
            **held.sizes,
            GROUP=held.cut.group,
            GROUP_PADDED=power_of_two(held.cut.group),
            SINKS=spec.sinks is not None,
            num_warps=2,
        )
        return output, lse

    def append_attend(
        self,
        layer: int,
        table: SpanTable,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """append, then attend: the device keeps the order."""
        self.append(layer, table, keys, values)
        return self.attend(layer, table, queries)

    def copy_page(self, source: int, target: int) -> None:
        """Copy a page's keys and values in all layers."""
        for layer in self._layers:
            for pool in layer.pools:
                pool[target].copy_(pool[source])

    def unit_bytes(self, layer: int) -> int:
        raise WorkerRefused(UNREADABLE)

    def read(self, layer: int, table: SpanTable) -> torch.Tensor:
        raise WorkerRefused(UNREADABLE)

    def _attend(
        self,
        held: TritonLayer,
        queries: torch.Tensor,
        pages: torch.Tensor,
        pieces: torch.Tensor,
        parts: torch.Tensor,
        part_lses: torch.Tensor,
        rows: int,
    ) -> None:
        """One launch for pieces of at most ``rows`` query rows."""
        spec = held.spec
        key_dot, value_dot = _dot_types(queries.dtype, held.keys.dtype)
        padded = max(held.page_sizes["KEY_PADDED"], held.sizes["VALUE_PADDED"])
        row_bytes = padded * max(key_dot.itemsize, value_dot.itemsize)
        _launch(
            attend_kernel,
            (len(pieces), spec.num_kv_heads),
            queries,
            *held.memory,
            pages,
            pieces,
            parts,
            part_lses,
            *queries.stride()[:2],
            float(spec.scaling),
            float(spec.softcap or 1.0),
            **held.sizes,
            **held.page_sizes,
            GROUP=held.cut.group,
            ROWS=rows,
            TOKENS=min(self._chunk_tokens, _block_tokens(row_bytes)),
            WINDOW=min(spec.window or 0, 2**31 - 1),
            SOFTCAP=spec.softcap is not None,
            KEY_DOT=_TYPES[key_dot],
            VALUE_DOT=_TYPES[value_dot],
            num_warps=8 if rows * padded > 8192 else 4,
            num_stages=2 if rows * row_bytes <= _MOST_QUERY_BYTES else 1,
        )

    def _tables(self, table: SpanTable) -> StepTables:
        tables = self._prepared.get(table)
        if tables is None:
            tables = StepTables(table, self._page_tokens, self._chunk_tokens, self._device)
            self._prepared[table] = tables
        return tables

    def _layer(self, index: int) -> TritonLayer:
        if not 0 <= index < len(self._layers):
            raise WireError(f"layer {index} is not one of the model's {len(self._layers)}")
        return self._layers[index]

    def _rows(self, name: str, rows: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
        """``rows`` if it is what the kernels may read; copied only where a row has gaps."""
        if tuple(rows.shape) != shape:
            raise WireError(f"{name} must have shape {shape}, not {tuple(rows.shape)}")
        if rows.dtype not in _TYPES or rows.device.type != self._device.type:
            raise WireError(
                f"{name} must be float32, bfloat16 or float16 on {self._device}, "
                f"not {rows.dtype} on {rows.device}"
            )
        return rows if rows.stride(2) == 1 else rows.contiguous()

    def _room(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.float32, device=self._device)


def _launch(kernel: Any, grid: tuple[int, int], *args: Any, **options: Any) -> None:
    """Start a kernel. At its first call it is compiled, and its host part by a C compiler."""
    try:
        kernel[grid](*args, **options)
    except (triton.TritonError, CalledProcessError) as error:
        raise WorkerRefused(
            f"Triton cannot compile for this GPU ({error}); it needs a C compiler and Python's "
            "headers here"
        ) from error


def _dot_types(queries: torch.dtype, kv: torch.dtype) -> tuple[torch.dtype, torch.dtype]:
    """In what queries meet keys, and weights values; sums are float32 in any case.

    int8 is exact in every float type; weights times scales want bfloat16's range. Triton's
    interpreter has no products in bfloat16.
    """
    if is_interpreted() or (kv not in (queries, torch.int8)):
        return torch.float32, torch.float32
    if kv == torch.int8 and queries == torch.float16:
        return torch.float16, torch.bfloat16
    return queries, queries


def _block_tokens(row_bytes: int) -> int:
    """Tokens whose keys a program holds at a time: a power of two."""
    return min(_MOST_TOKENS, max(_LEAST_TOKENS, _BLOCK_BYTES // row_bytes))
