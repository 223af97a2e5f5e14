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
_PLAIN = AttentionLayer(32, 4, 128, 128, 0.1)
_ODD = AttentionLayer(3, 1, 80, 40, 0.1, window=100, softcap=5.0, sinks=(0.0, 1.0, 2.0))
#: The largest that a GPU with 64 KiB of shared memory takes, and the largest of all.
_LARGE, _LARGEST = AttentionLayer(32, 1, 256, 256, 0.1), AttentionLayer(64, 1, 256, 256, 0.1)
#: A T4, an A100, an H100 and a B200; what is kept, what comes in, and by which layers.
_CELLS = [
    (75, "float16", torch.float16, (_PLAIN, _ODD, _LARGE)),
    (75, "int8", torch.float16, (_PLAIN,)),
    (80, "int8", torch.float16, (_PLAIN, _ODD, _LARGEST)),
    (90, "bfloat16", torch.bfloat16, (_PLAIN, _ODD, _LARGEST)),
    (100, "bfloat16", torch.bfloat16, (_PLAIN,)),
]


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


def _walk(
    kv_dtype: str, dtype: torch.dtype, layers: tuple[AttentionLayer, ...], is_small: bool
) -> None:
    """A decode row and a prompt behind a prefix in every layer, on a device without memory."""
    pages = PageTable(64, 32)
    pages.table([0, 1], [0, 0], [40, 40])
    table = pages.table([0, 1], [40, 40], [1, 30])
    made = backend.TritonBackend(layers, 64, 32, kv_dtype, "meta", is_small=is_small)
    for index, layer in enumerate(layers):
        sizes = (
            (layer.num_heads, layer.head_dim),
            (layer.num_kv_heads, layer.head_dim),
            (layer.num_kv_heads, layer.value_dim),
        )
        rows = [torch.empty(31, *size, dtype=dtype, device="meta") for size in sizes]
        made.append_attend(index, table, *rows)


if __name__ == "__main__":
    for capability, kv_dtype, dtype, layers in _CELLS:
        backend._launch = partial(_compile, capability)
        _walk(kv_dtype, dtype, layers, capability < 80)
