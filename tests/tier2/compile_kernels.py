"""Compiles what TritonBackend launches, for GPUs that need not be here. Run as a program, without
TRITON_INTERPRET; prints the shared memory that each kernel takes, in bytes."""

from functools import partial
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from glinthawk.core.spec import AttentionLayer
from glinthawk.tier2.backends import triton as backend
from glinthawk.tier2.pages.page_table import PageTable

_NAMES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int8: "i8",
    torch.int32: "i32",
}
_LAYERS = (
    AttentionLayer(32, 4, 128, 128, 0.1),
    AttentionLayer(3, 1, 80, 40, 0.1, window=100, softcap=5.0, sinks=(0.0, 1.0, 2.0)),
    AttentionLayer(64, 1, 256, 256, 0.1),
)
#: An A100 and an H100; what is kept, and what comes in.
_CELLS = [(80, "int8", torch.float16), (90, "bfloat16", torch.bfloat16)]


def _compile(capability: int, kernel: Any, grid: object, *args: Any, **options: Any) -> None:
    names = kernel.arg_names
    constants = {(names.index(name),): options.pop(name) for name in names if name in options}
    signature = {name: "constexpr" for name in names}
    signature |= {name: _type(arg) for name, arg in zip(names, args, strict=False)}
    # As at a launch: addresses and strides are multiples of 16.
    aligned = {(i,): [["tt.divisibility", 16]] for i, arg in enumerate(args) if _is_aligned(arg)}
    source = ASTSource(kernel, signature, constants, aligned)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    print(capability, kernel.fn.__name__, made.metadata.shared)  # noqa: T201


def _type(arg: Any) -> str:
    if isinstance(arg, torch.Tensor):
        return "*" + _NAMES[arg.dtype]
    return "i32" if isinstance(arg, int) else "fp32"


def _is_aligned(arg: Any) -> bool:
    return isinstance(arg, torch.Tensor) or (isinstance(arg, int) and arg % 16 == 0)


def _walk(kv_dtype: str, dtype: torch.dtype) -> None:
    """A decode row and a prompt behind a prefix in every layer, on a device without memory."""
    pages = PageTable(64, 32)
    pages.table([0, 1], [0, 0], [40, 40])
    table = pages.table([0, 1], [40, 40], [1, 30])
    made = backend.TritonBackend(_LAYERS, 64, 32, kv_dtype, "meta")
    for index, layer in enumerate(_LAYERS):
        sizes = (
            (layer.num_heads, layer.head_dim),
            (layer.num_kv_heads, layer.head_dim),
            (layer.num_kv_heads, layer.value_dim),
        )
        rows = [torch.empty(31, *size, dtype=dtype, device="meta") for size in sizes]
        made.append_attend(index, table, *rows)


if __name__ == "__main__":
    for capability, kv_dtype, dtype in _CELLS:
        backend._launch = partial(_compile, capability)
        _walk(kv_dtype, dtype)
