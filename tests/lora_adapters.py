"""Adapters in PEFT's format with random weights, and models into which they are merged by hand."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

__all__ = ["linears_of", "merge_by_hand", "write_adapter"]

_PREFIX = "base_model.model."


def linears_of(model: Path, targets: Sequence[str]) -> dict[str, nn.Linear]:
    """Linear layers of the model in a folder whose names end with one of ``targets``."""
    own = AutoModelForCausalLM.from_pretrained(model)
    return {
        name: module
        for name, module in own.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in targets
    }


def write_adapter(
    folder: Path, model: Path, targets: Sequence[str], seed: int, rank: int = 4, **said: Any
) -> Path:
    """A new adapter of rank ``rank``; ``said`` are settings of PEFT's."""
    settings = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": list(targets),
        **said,
    }
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, linear in linears_of(model, targets).items():
        ends = [value for key, value in (said.get("rank_pattern") or {}).items() if key in name]
        own = ends[0] if ends else rank
        down = torch.randn(own, linear.in_features, generator=generator)
        up = torch.randn(linear.out_features, own, generator=generator)
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = down / linear.in_features**0.5
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = up / own
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


@torch.no_grad()
def merge_by_hand(model: Path, adapter: Path | None) -> nn.Module:
    """W + scaling B A, for an adapter without patterns; None: the model itself."""
    own = AutoModelForCausalLM.from_pretrained(model, attn_implementation="eager")
    if adapter is None:
        return own
    settings = json.loads((adapter / "adapter_config.json").read_text())
    scaling = settings["lora_alpha"] / settings["r"]
    tensors = load_file(adapter / "adapter_model.safetensors")
    for name in {key.rpartition(".lora_")[0] for key in tensors}:
        down, up = (tensors[f"{name}.lora_{one}.weight"] for one in "AB")
        own.get_submodule(name.removeprefix(_PREFIX)).weight += scaling * up @ down
    return own
