"""Attention over KV pages at the speed of memory: the C++ kernels behind the Backend protocol."""

from weakref import WeakKeyDictionary

import torch

from glinthawk import _native
from glinthawk.core.errors import WireError, WorkerRefused
from glinthawk.core.openmp import find_team
from glinthawk.core.spec import AttentionLayer
from glinthawk.tier2.backends.backend import Backend
from glinthawk.tier2.backends.native_arguments import (
    check_column,
    check_rows,
    make_layers,
    make_plan,
    name_dtype,
)
from glinthawk.tier2.pages.page_table import SpanTable

__all__ = ["KV_DTYPES", "NativeBackend", "page_bytes", "supported_isas"]

#: How keys and values may be kept. int8 has a scale for each token and KV head.
KV_DTYPES = ("bfloat16", "float16", "float32", "int8")


def supported_isas() -> list[str]:
    """Instruction sets this machine can run, the best last."""
    return _native.supported_isas()


def page_bytes(layers: tuple[AttentionLayer, ...], page_tokens: int, kv_dtype: str) -> int:
    """Bytes of one page over all layers: value sizes are filled up to 16, int8 has scales."""
    element = {"float32": 4, "int8": 1}.get(kv_dtype, 2)
    scales = 4 if kv_dtype == "int8" else 0
    return page_tokens * sum(
        layer.num_kv_heads * (element * (layer.head_dim + -(-layer.value_dim // 16) * 16) + scales)
        for layer in layers
    )


class NativeBackend(Backend):
    """Pages of all layers in one arena of huge pages, packed for vector instructions.

    A sequence's output depends on nothing but the sequence: not on the number of threads, nor on
    what else is in the batch. Calls are safe from several threads; they run one after another.
    ``on_torch_threads``: beside torch in one process, use its threads instead of own ones.
    """

    def __init__(
        self,
        layers: tuple[AttentionLayer, ...],
        num_pages: int,
        page_tokens: int,
        kv_dtype: str,
        threads: int = 0,
        isa: str = "auto",
        on_torch_threads: bool = False,
        engine: "_native.Engine | _native.DriveEngine | None" = None,
    ) -> None:
        """``engine`` is one that has been made already, else pages are in memory."""
        if kv_dtype not in KV_DTYPES:
            raise WorkerRefused(f"kv_dtype is one of {', '.join(KV_DTYPES)}, not {kv_dtype}")
        self._layers = layers
        self._num_pages = num_pages
        self._page_tokens = page_tokens
        try:
            self._engine = engine or _native.Engine(
                make_layers(layers),
                num_pages,
                page_tokens,
                kv_dtype,
                threads,
                isa,
                *(find_team() if on_torch_threads else (0, 0)),
            )
        except (ValueError, TypeError) as error:
            raise WorkerRefused(f"this KV cache cannot be made: {error}") from error
        # A table serves every layer of a step, so its plan is kept as long as the table is.
        self._plans: WeakKeyDictionary[SpanTable, _native.Plan] = WeakKeyDictionary()
        #: Over so many packed pages.
        self._packed_plans: WeakKeyDictionary[SpanTable, tuple[int, _native.Plan]] = (
            WeakKeyDictionary()
        )

    @property
    def isa(self) -> str:
        return self._engine.isa

    @property
    def kernel(self) -> str:
        return f"native {self.isa}"

    @property
    def threads(self) -> int:
        return self._engine.threads

    @property
    def page_bytes(self) -> int:
        return self._engine.page_bytes

    def append(
        self, layer: int, table: SpanTable, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        plan = self._plan(table)
        keys, values = self._key_values(layer, table, keys, values)
        self._engine.append(layer, plan, keys.data_ptr(), values.data_ptr(), name_dtype(keys))

    def attend(
        self, layer: int, table: SpanTable, queries: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        plan = self._plan(table)
        queries, output, lse = self._query_output(layer, table, queries)
        self._engine.attend(
            layer, plan, queries.data_ptr(), name_dtype(queries), output.data_ptr(), lse.data_ptr()
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
        """append, then attend, in one native call."""
        plan = self._plan(table)
        keys, values = self._key_values(layer, table, keys, values)
        queries, output, lse = self._query_output(layer, table, queries)
        if queries.dtype != keys.dtype:
            raise WireError("queries, keys and values of one call have one dtype")
        self._engine.append_attend(
            layer,
            plan,
            keys.data_ptr(),
            values.data_ptr(),
            queries.data_ptr(),
            name_dtype(queries),
            output.data_ptr(),
            lse.data_ptr(),
        )
        return output, lse

    def copy_page(self, source: int, target: int) -> None:
        """Copy a page's keys and values in all layers."""
        try:
            self._engine.copy_page(source, target)
        except (ValueError, TypeError) as error:
            raise WireError(f"page {source} cannot be copied to {target}: {error}") from error

    def unit_bytes(self, layer: int) -> int:
        """Bytes of one page in a layer."""
        self._layer(layer)
        return self._engine.unit_bytes(layer)

    def read(self, layer: int, table: SpanTable) -> torch.Tensor:
        """The pages of ``table`` in a layer, one after the other (P, unit bytes)."""
        pages = check_column("pages", table.pages)
        units = torch.empty(len(pages), self.unit_bytes(layer), dtype=torch.uint8)
        try:
            self._engine.read(layer, pages.data_ptr(), len(pages), units.data_ptr())
        except ValueError as error:
            raise WireError(f"a table does not fit this KV cache: {error}") from error
        return units

    def attend_packed(
        self, layer: int, table: SpanTable, units: torch.Tensor, queries: torch.Tensor
    ) -> torch.Tensor:
        """Attention over ``units`` (U, unit bytes), to which the page numbers of ``table``
        refer; ``read`` has packed them. queries (T, H, D) -> output (T, H, Dv)."""
        size = self.unit_bytes(layer)
        if units.dtype != torch.uint8 or units.dim() != 2 or units.shape[1] != size:
            raise WireError(f"pages of layer {layer} must have {size} bytes each")
        plan = self._packed_plan(table, len(units))
        queries, output, lse = self._query_output(layer, table, queries)
        units = units.contiguous()
        assert isinstance(self._engine, _native.Engine), "drives have pages of their own"
        self._engine.attend_packed(
            layer,
            plan,
            units.data_ptr(),
            queries.data_ptr(),
            name_dtype(queries),
            output.data_ptr(),
            lse.data_ptr(),
        )
        return output

    def _packed_plan(self, table: SpanTable, num_units: int) -> "_native.Plan":
        made_for, plan = self._packed_plans.get(table, (-1, None))
        if plan is None or made_for != num_units:
            plan = make_plan(table, num_units, self._page_tokens)
            self._packed_plans[table] = (num_units, plan)
        return plan

    def _plan(self, table: SpanTable) -> "_native.Plan":
        plan = self._plans.get(table)
        if plan is None:
            plan = self._plans[table] = make_plan(table, self._num_pages, self._page_tokens)
        return plan

    def _layer(self, index: int) -> AttentionLayer:
        if not 0 <= index < len(self._layers):
            raise WireError(f"layer {index} is not one of the model's {len(self._layers)}")
        return self._layers[index]

    def _key_values(
        self, layer: int, table: SpanTable, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        spec, rows = self._layer(layer), table.num_rows
        if keys.dtype != values.dtype:
            raise WireError("keys and values of one call have one dtype")
        return (
            check_rows("keys", keys, (rows, spec.num_kv_heads, spec.head_dim)),
            check_rows("values", values, (rows, spec.num_kv_heads, spec.value_dim)),
        )

    def _query_output(
        self, layer: int, table: SpanTable, queries: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Checked queries, and room for outputs and log-sum-exp."""
        spec, rows = self._layer(layer), table.num_rows
        queries = check_rows("queries", queries, (rows, spec.num_heads, spec.head_dim))
        output = torch.empty(rows, spec.num_heads, spec.value_dim, dtype=queries.dtype)
        return queries, output, torch.empty(rows, spec.num_heads, dtype=torch.float32)
