"""What config.json says of a quantised checkpoint: which layers are, and how they are stored."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from glinthawk.tier1.quantized.gguf_blocks import GgufLayout
from glinthawk.tier1.quantized.weight_layouts import (
    AwqLayout,
    GptqLayout,
    Mxfp4Layout,
    PackedLayout,
    PlainLayout,
    WeightLayout,
)

__all__ = ["READABLE", "Scheme", "read_scheme"]

#: For errors.
READABLE = (
    "compressed-tensors (4 and 8 bit integers, FP8), GPTQ (4 and 8 bits), AWQ (4 bits, GEMM), FP8 "
    "in blocks, MXFP4 and GGUF"
)
_FLOAT8 = torch.float8_e4m3fn


@dataclass(frozen=True, slots=True)
class _Part:
    """Layers that are stored alike."""

    layout: WeightLayout
    #: Names or parts of names, classes, or patterns behind "re:"; None: all.
    targets: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Scheme:
    """Of a checkpoint in the format ``method``."""

    method: str
    parts: tuple[_Part, ...]
    #: Layers that are not quantised, named like targets.
    ignored: tuple[str, ...] = ()
    #: Whether tensors are of all experts, and not of each.
    stacks_experts: bool = False

    @property
    def bits(self) -> float | None:
        """Of a weight in most of its layers; None where all are plain."""
        return self.parts[-1].layout.bits_per_weight if self.parts else None

    def layout(self, name: str) -> WeightLayout | None:
        """Of the linear layer ``name``; None where its weight is a plain one."""
        if any(_names(target, name) for target in self.ignored):
            return None
        for part in self.parts:
            if part.targets is None or any(_names(target, name) for target in part.targets):
                return part.layout
        return None


def read_scheme(settings: dict[str, Any]) -> Scheme:
    """Of config.json's ``quantization_config``. Raises ValueError for what cannot be read here."""
    method = settings.get("quant_method")
    match method:
        case "compressed-tensors":
            return _read_compressed(settings)
        case "gptq":
            return _read_gptq(settings)
        case "awq":
            return _read_awq(settings)
        case "fp8":
            return _read_fp8(settings)
        case "mxfp4":
            part = _Part(Mxfp4Layout(), ("experts",))
            return Scheme("mxfp4", (part,), tuple(_excluded(settings)), stacks_experts=True)
        case "gguf":
            layers = sorted(settings["layers"].items(), key=lambda one: len(one[1]))
            parts = tuple(_Part(GgufLayout(kind), tuple(names)) for kind, names in layers)
            return Scheme("gguf", parts)
    raise ValueError(f"its weights are in {method or 'an unnamed format'}")


def _read_compressed(settings: dict[str, Any]) -> Scheme:
    for name in ("sparsity_config", "transform_config"):
        extra = settings.get(name) or {}
        if extra and extra.get("format") != "dense":
            raise ValueError(f"compressed-tensors with {name}")
    groups = (settings.get("config_groups") or {}).values()
    if not groups:
        raise ValueError("compressed-tensors without config_groups")
    parts = [
        _Part(_compressed_layout(group, group.get("format") or settings.get("format")), targets)
        for group in groups
        for targets in [tuple(group.get("targets") or ["Linear"])]
    ]
    # What names layers one by one comes before what names all.
    parts.sort(key=lambda part: "Linear" in (part.targets or ()))
    return Scheme("compressed-tensors", tuple(parts), tuple(settings.get("ignore") or ()))


def _compressed_layout(group: dict[str, Any], form: str | None) -> WeightLayout:
    weights = group.get("weights") or {}
    bits, kind = weights.get("num_bits"), weights.get("type", "int")
    strategy = weights.get("strategy") or ("group" if weights.get("group_size") else "tensor")
    size = weights.get("group_size") if strategy == "group" else None
    is_symmetric = weights.get("symmetric", True)
    if form == "pack-quantized" and kind == "int" and bits in (4, 8) and strategy != "tensor":
        has_order = weights.get("actorder") in ("group", "dynamic")
        return PackedLayout(bits, size, is_symmetric, has_order)
    block: tuple[int | None, int | None]
    match strategy:
        case "tensor":
            block = (None, None)
        case "channel":
            block = (1, None)
        case "group":
            block = (1, size)
        case "block":
            block = _block(weights.get("block_structure"))
        case _:
            raise ValueError(f"compressed-tensors with the strategy {strategy!r}")
    dtype = {"int8": torch.int8, "float8": _FLOAT8}.get(f"{kind}{bits}")
    if form not in ("int-quantized", "float-quantized", "naive-quantized") or dtype is None:
        raise ValueError(f"compressed-tensors in the form {form!r} with {kind}{bits} weights")
    return PlainLayout(
        dtype,
        block,
        is_symmetric=is_symmetric,
        ignored=_activation_scales(group.get("input_activations") or {}),
    )


def _activation_scales(activations: dict[str, Any]) -> tuple[str, ...]:
    """Those that were found beforehand. Activations stay in their own type here."""
    is_static = bool(activations) and not activations.get("dynamic", False)
    return ("input_scale",) if is_static else ()


def _read_gptq(settings: dict[str, Any]) -> Scheme:
    bits, form = settings.get("bits"), settings.get("checkpoint_format") or "gptq"
    if bits not in (4, 8) or form not in ("gptq", "gptq_v2") or settings.get("dynamic"):
        what = "rules for single layers" if settings.get("dynamic") else f"in the form {form!r}"
        raise ValueError(f"GPTQ with {bits} bits, {what}")
    layout = GptqLayout(bits, _group(settings), 1 if form == "gptq" else 0)
    head = () if settings.get("lm_head") else ("lm_head",)
    return Scheme("gptq", (_Part(layout, _inside(settings)),), (*head, *_excluded(settings)))


def _inside(settings: dict[str, Any]) -> tuple[str, ...] | None:
    """Of a decoder layer, the linear layers that are quantised; None: all."""
    listed = settings.get("modules_in_block_to_quantize")
    if not listed:
        return None
    return tuple(
        name for names in listed for name in ([names] if isinstance(names, str) else names)
    )


def _read_awq(settings: dict[str, Any]) -> Scheme:
    bits = settings.get("bits") or settings.get("w_bit")
    form = str(settings.get("version") or settings.get("format") or "gemm").lower()
    if bits != 4 or form != "gemm":
        raise ValueError(f"AWQ with {bits} bits in the form {form!r}")
    has_zeros = settings.get("zero_point", True)
    layout = AwqLayout(_group(settings), has_zeros)
    return Scheme("awq", (_Part(layout),), ("lm_head", *_excluded(settings)))


def _read_fp8(settings: dict[str, Any]) -> Scheme:
    block = _block(settings.get("weight_block_size"))
    static = settings.get("activation_scheme") == "static"
    layout = PlainLayout(
        _FLOAT8,
        block,
        "weight_scale_inv",
        torch.float32,
        ignored=("activation_scale",) if static else (),
    )
    return Scheme("fp8", (_Part(layout),), ("lm_head", *_excluded(settings)))


def _block(size: object) -> tuple[int, int]:
    match size:
        case [int(rows), int(columns)] if rows > 0 and columns > 0:
            return rows, columns
    raise ValueError(f"FP8 with blocks of {size}")


def _group(settings: dict[str, Any]) -> int | None:
    size = settings.get("group_size", settings.get("q_group_size", 128))
    if size in (-1, None):
        return None
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"groups of {size}")
    return size


def _excluded(settings: dict[str, Any]) -> Iterable[str]:
    return settings.get("modules_to_not_convert") or ()


def _names(target: str, name: str) -> bool:
    """Whether ``target`` means the linear layer ``name``."""
    if target.startswith("re:"):
        return re.match(target.removeprefix("re:"), name) is not None
    return target == "Linear" or f".{target}." in f".{name}."
