"""The tensors of a GGUF file, each read when it is asked for."""

import logging
from pathlib import Path
from types import EllipsisType
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig

from glinthawk.core.gguf_folder import FILE_NAME
from glinthawk.core.gguf_settings import name_weight
from glinthawk.core.units import format_size

__all__ = ["open_gguf"]

_log = logging.getLogger(__name__)

#: Numbers that are expanded to float32 at a time.
_CHUNK = 1 << 22


class _Stored:
    """One tensor of the file, which is mapped. transformers' loader takes it by ``[...]``."""

    def __init__(self, tensor: Any, is_packed: bool, num_heads: int, dtype: torch.dtype) -> None:
        self._tensor, self._is_packed = tensor, is_packed
        self._num_heads, self._dtype = num_heads, dtype

    def __getitem__(self, _: EllipsisType) -> torch.Tensor:
        data = self._tensor.data
        rows = torch.from_numpy(data) if self._is_packed else self._expand(data)
        return _in_halves(rows, self._num_heads) if self._num_heads else rows

    def _expand(self, data: Any) -> torch.Tensor:
        from gguf import dequantize

        shape = tuple(int(size) for size in reversed(self._tensor.shape))
        whole = torch.empty(shape, dtype=self._dtype)
        step = max(1, _CHUNK // shape[-1]) if len(shape) > 1 else shape[0]
        for start in range(0, shape[0], step):
            part = dequantize(data[start : start + step], self._tensor.tensor_type)
            whole[start : start + step] = torch.from_numpy(np.require(part, requirements="W"))
        return whole


def open_gguf(
    source: str, settings: PreTrainedConfig, dtype: torch.dtype | str
) -> dict[str, Any] | None:
    """Tensors by the names of a model with ``settings``, as config.json says them, and plain ones
    in ``dtype``; None for a folder without such a file."""
    file = Path(source) / FILE_NAME
    if not file.exists():
        return None
    from gguf import GGUFReader

    dtype = settings.dtype if isinstance(dtype, str) else dtype
    stored = getattr(settings, "quantization_config", None) or {}
    packed = {name for names in stored.get("layers", {}).values() for name in names}
    tensors = {}
    expanded = 0
    # Mapped so that torch takes it: nothing is written, so nothing is copied.
    for tensor in GGUFReader(file, "c").tensors:
        name = name_weight(tensor.name)
        if name is None:
            continue
        stem, _, end = name.rpartition(".")
        is_packed = stem in packed and end == "weight"
        ending = "blocks" if is_packed else end
        tensors[f"{stem}.{ending}"] = _Stored(tensor, is_packed, _pairs(stem, settings), dtype)
        if not is_packed and tensor.tensor_type.name not in ("F32", "F16", "BF16"):
            expanded += int(tensor.n_elements) * dtype.itemsize
    if expanded:
        taken = format_size(expanded)
        _log.warning("%s: %s of it are plain numbers once read", file.resolve(), taken)
    return tensors


def _pairs(layer: str, settings: PreTrainedConfig) -> int:
    """Heads whose rows llama.cpp has put in pairs, as it does for Llama's queries and keys."""
    heads = {
        "q_proj": settings.num_attention_heads,
        "k_proj": settings.num_key_value_heads,
    }
    is_paired = settings.model_type in ("llama", "mistral")
    count: int = heads.get(layer.rpartition(".")[2], 0) if is_paired else 0
    return count


def _in_halves(rows: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Rows 0, 1, 2, ... of a head were rows 0, half, 1, half + 1, ... of it: back to halves."""
    heads = rows.view(num_heads, -1, 2, *rows.shape[1:])
    return heads.transpose(1, 2).reshape(rows.shape)
