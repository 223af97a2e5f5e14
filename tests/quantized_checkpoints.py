"""Checkpoints with quantised weights, and the plain models that they mean.

Those of compressed-tensors are made by that library. The others are written word by word from their
formats' descriptions, with loops that look nothing like what reads them.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from compressed_tensors.compressors.base import BaseCompressor
from compressed_tensors.quantization import QuantizationScheme
from safetensors.torch import load_file, save_file

__all__ = ["FORMS", "Stored", "quantise_weight", "write_checkpoint"]

_GROUP = 32
#: In these families' checkpoints.
_QUANTIZED = ("_proj.weight", "_with_mqa.weight", ".w1.weight", ".w2.weight", ".w3.weight")
Tensors = dict[str, torch.Tensor]


class Stored(NamedTuple):
    """Of one weight: its tensors, by the ends of their names, and what they mean."""

    tensors: Tensors
    plain: torch.Tensor


class Form(NamedTuple):
    """A format: what config.json says, and how a weight is written."""

    settings: dict[str, Any]
    write: Callable[[torch.Tensor], Stored]


def quantise_weight(form: str, weight: torch.Tensor) -> Stored:
    """Round ``weight`` (N, K) to nearest."""
    return FORMS[form].write(weight)


def write_checkpoint(plain: Path, folder: Path, form: str) -> Path:
    """The model in ``plain`` in that ``form``; beside it, in ``folder``/truth, what it means."""
    truth = folder / "truth"
    truth.mkdir(parents=True)
    settings = json.loads((plain / "config.json").read_text())
    (truth / "config.json").write_text(json.dumps(settings))
    settings["quantization_config"] = FORMS[form].settings
    (folder / "config.json").write_text(json.dumps(settings))
    stored, meant = Tensors(), Tensors()
    for name, tensor in load_file(plain / "model.safetensors").items():
        stored |= {name: tensor}
        meant |= {name: tensor}
        if name.endswith(_QUANTIZED):
            one = quantise_weight(form, stored.pop(name))
            place = name.removesuffix("weight")
            stored |= {place + end: value for end, value in one.tensors.items()}
            meant[name] = one.plain.to(tensor.dtype)
    for where, tensors in ((folder, stored), (truth, meant)):
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(whole, where / "model.safetensors", metadata={"format": "pt"})
    return folder


# -- compressed-tensors ----------------------------------------------------------------------------


def _compressed(form: str, **weights: Any) -> Form:
    group = {"targets": ["Linear"], "weights": weights}
    settings = {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }
    scheme = QuantizationScheme(**group)
    compressor = BaseCompressor.get_value_from_registry(form)

    def write(weight: torch.Tensor) -> Stored:
        scale, zero = _scales(weight, weights)
        given = {"weight": weight, "weight_scale": scale.to(weight.dtype)}
        if not weights.get("symmetric", True):
            given["weight_zero_point"] = zero.to(torch.int8)
        tensors = compressor.compress(given, scheme)
        plain = compressor.decompress(tensors, scheme)["weight"]
        return Stored({end: value.contiguous() for end, value in tensors.items()}, plain)

    return Form(settings, write)


def _scales(weight: torch.Tensor, weights: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    match weights["strategy"]:
        case "tensor":
            blocks = weight.reshape(1, 1, -1)
        case "channel":
            blocks = weight.reshape(len(weight), 1, -1)
        case "group":
            blocks = weight.reshape(len(weight), -1, weights["group_size"])
        case _:
            (rows, columns), (height, width) = weight.shape, weights["block_structure"]
            blocks = weight.reshape(rows // height, height, columns // width, width)
            blocks = blocks.transpose(1, 2).flatten(2)
    low, high = blocks.float().amin(-1), blocks.float().amax(-1)
    most = 448.0 if weights["type"] == "float" else 2 ** (weights["num_bits"] - 1) - 1
    if weights.get("symmetric", True):
        scale = torch.maximum(-low, high) / most
        return (scale.view(1) if weights["strategy"] == "tensor" else scale), torch.zeros(0)
    scale = (high.clamp(min=0) - low.clamp(max=0)) / (2 * most + 1)
    return scale, (-most - 1 - low.clamp(max=0) / scale).round().clamp(-most - 1, most)


# -- GPTQ, AWQ, FP8 in blocks ----------------------------------------------------------------------


def _gptq(bits: int, group: int, *, version: str = "gptq", is_shuffled: bool = False) -> Form:
    settings = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": group,
        "desc_act": is_shuffled,
        "checkpoint_format": version,
    }

    def write(weight: torch.Tensor) -> Stored:
        inputs = weight.shape[1]
        size = inputs if group == -1 else group
        group_of = np.arange(inputs) // size
        if is_shuffled:
            np.random.default_rng(0).shuffle(group_of)
        codes, scales, zeros = _round(weight, group_of, bits)
        shift = 1 if version == "gptq" else 0
        tensors = {
            "qweight": _pack(codes, bits),
            "qzeros": _pack((zeros - shift & (1 << bits) - 1).T, bits).T,
            "scales": torch.from_numpy(scales).half(),
            "g_idx": torch.from_numpy(group_of).int(),
        }
        return Stored(tensors, _meant(codes, scales, zeros, group_of))

    return Form(settings, write)


def _awq(group: int) -> Form:
    settings = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": group,
        "zero_point": True,
        "version": "gemm",
    }

    def write(weight: torch.Tensor) -> Stored:
        group_of = np.arange(weight.shape[1]) // group
        codes, scales, zeros = _round(weight, group_of, 4)
        tensors = {
            "qweight": _pack_shuffled(codes),
            "qzeros": _pack_shuffled(zeros),
            "scales": torch.from_numpy(scales).half(),
        }
        return Stored(tensors, _meant(codes, scales, zeros, group_of))

    return Form(settings, write)


def _fp8(size: int) -> Form:
    settings = {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [size, size],
    }

    def write(weight: torch.Tensor) -> Stored:
        rows, columns = weight.shape
        scales = torch.zeros(-(-rows // size), -(-columns // size))
        codes = torch.empty(rows, columns, dtype=torch.float8_e4m3fn)
        plain = torch.empty(rows, columns)
        for i, row in enumerate(range(0, rows, size)):
            for j, column in enumerate(range(0, columns, size)):
                block = (slice(row, row + size), slice(column, column + size))
                scales[i, j] = weight[block].float().abs().max() / 448
                codes[block] = (weight[block].float() / scales[i, j]).to(codes.dtype)
                plain[block] = codes[block].float() * scales[i, j]
        return Stored({"weight": codes, "weight_scale_inv": scales}, plain)

    return Form(settings, write)


def _round(weight: torch.Tensor, group_of: Any, bits: int) -> tuple[Any, Any, Any]:
    """Codes (K, N), scales (G, N) as float16 has them, and zero points (G, N)."""
    values = weight.float().numpy().T
    num_groups, most = group_of.max() + 1, (1 << bits) - 1
    scales = np.zeros((num_groups, values.shape[1]), np.float32)
    zeros = np.zeros(scales.shape, np.int64)
    codes = np.zeros(values.shape, np.int64)
    for group in range(num_groups):
        mine = values[group_of == group]
        low, high = mine.min(0).clip(max=0), mine.max(0).clip(min=0)
        scales[group] = ((high - low) / most).astype(np.float16)
        zeros[group] = np.rint(-low / scales[group]).clip(1, most)
        codes[group_of == group] = np.rint(mine / scales[group] + zeros[group]).clip(0, most)
    return codes, scales, zeros


def _meant(codes: Any, scales: Any, zeros: Any, group_of: Any) -> torch.Tensor:
    plain = np.empty(codes.shape, np.float32)
    for column, group in enumerate(group_of):
        plain[column] = (codes[column] - zeros[group]) * scales[group]
    return torch.from_numpy(plain.T.copy())


def _pack(codes: Any, bits: int) -> torch.Tensor:
    """(K, N) -> int32 (K * bits / 32, N)."""
    words = np.zeros((len(codes) * bits // 32, codes.shape[1]), np.uint32)
    for row, values in enumerate(codes):
        place = row * bits
        words[place // 32] |= values.astype(np.uint32) << np.uint32(place % 32)
    return torch.from_numpy(words.view(np.int32))


def _pack_shuffled(codes: Any) -> torch.Tensor:
    """(R, N) -> int32 (R, N / 8)."""
    words = np.zeros((len(codes), codes.shape[1] // 8), np.uint32)
    for place, column in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
        words |= codes[:, column::8].astype(np.uint32) << np.uint32(4 * place)
    return torch.from_numpy(words.view(np.int32))


def _forms() -> Iterator[tuple[str, Form]]:
    ints: dict[str, Any] = {"type": "int", "symmetric": True}
    floats: dict[str, Any] = {"type": "float", "num_bits": 8, "symmetric": True}
    group = {"strategy": "group", "group_size": _GROUP}
    pack = "pack-quantized"
    yield "w4a16", _compressed(pack, num_bits=4, **group, **ints)
    yield "w4a16 asymmetric", _compressed(pack, num_bits=4, **group, **{**ints, "symmetric": False})
    yield "w4a16 channels", _compressed(pack, num_bits=4, strategy="channel", **ints)
    yield "w8a16", _compressed(pack, num_bits=8, **group, **ints)
    yield "w8a8", _compressed("int-quantized", num_bits=8, strategy="channel", **ints)
    yield "fp8 tensors", _compressed("float-quantized", strategy="tensor", **floats)
    yield "fp8 channels", _compressed("float-quantized", strategy="channel", **floats)
    yield "gptq 4", _gptq(4, _GROUP)
    yield "gptq 4 shuffled", _gptq(4, _GROUP, is_shuffled=True)
    yield "gptq 8 v2", _gptq(8, -1, version="gptq_v2")
    yield "awq", _awq(_GROUP)
    yield "fp8 blocks", _fp8(16)
    yield "fp8 ragged blocks", _fp8(48)


FORMS = dict(_forms())
