"""Checkpoints of gpt-oss with experts in MXFP4, and the plain models that they mean; written number
by number from the format's description."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

__all__ = ["write_mxfp4"]

_SETTINGS = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"],
}
#: Sign, two bits of exponent, one of fraction.
_VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
_BLOCK = 32


def write_mxfp4(plain: Path, folder: Path) -> Path:
    """The gpt-oss in ``plain`` with its experts in MXFP4; in ``folder``/truth, what that means."""
    truth = folder / "truth"
    truth.mkdir(parents=True)
    settings = json.loads((plain / "config.json").read_text())
    (truth / "config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({**settings, "quantization_config": _SETTINGS}))
    stored: dict[str, torch.Tensor] = {}
    meant: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(plain / "model.safetensors").items():
        stored[name] = meant[name] = tensor
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            blocks, scales, values = _round(stored.pop(name).transpose(1, 2).numpy())
            stored |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
            meant[name] = values.transpose(1, 2).contiguous()
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    save_file(meant, truth / "model.safetensors", metadata={"format": "pt"})
    return folder


def _round(weight: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(E, N, K) -> blocks (E, N, K / 32, 16), scales (E, N, K / 32), and the values they mean."""
    parts = weight.reshape(*weight.shape[:2], -1, _BLOCK)
    exponents = np.floor(np.log2(np.abs(parts).max(-1) / 6)).astype(int) + 1
    scaled = parts / 2.0 ** exponents[..., None]
    nearest = np.abs(np.abs(scaled)[..., None] - _VALUES).argmin(-1)
    codes = np.where(scaled < 0, nearest + 8, nearest).astype(np.uint8)
    values = np.where(codes > 7, -1, 1) * _VALUES[codes % 8] * 2.0 ** exponents[..., None]
    octets = codes[..., 0::2] | codes[..., 1::2] << 4
    scales = np.ascontiguousarray(exponents + 127).astype(np.uint8)
    whole = values.reshape(weight.shape).astype(np.float32)
    return torch.from_numpy(octets), torch.from_numpy(scales), torch.from_numpy(whole)
