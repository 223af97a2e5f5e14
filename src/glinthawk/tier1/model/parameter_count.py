"""The numbers of any Hugging Face model from its config.json: counted on a copy without memory."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from glinthawk.core.error_text import first_line
from glinthawk.core.errors import ModelError, UnsupportedModel
from glinthawk.core.hub import check_hub
from glinthawk.core.shape import LayerShape, ModelShape
from glinthawk.core.slices import LayerSlice
from glinthawk.core.source import refuse_code, resolve_model
from glinthawk.core.spec import DTYPE_BYTES, AttentionLayer
from glinthawk.tier1.model.discovery import discover
from glinthawk.tier1.model.module_trace import find_layers
from glinthawk.tier1.quantized.checkpoint_loading import stored_bits

__all__ = ["count_shape", "read_shape"]

#: What configurations call the number of experts that a token may go to.
_NUM_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_FAILURES = (OSError, ValueError, ImportError, KeyError, RuntimeError, AttributeError, TypeError)


def read_shape(name: str, dtype: str = "auto", trust: bool = False) -> ModelShape:
    """Of a folder, a hub name or ``demo``; ``auto`` is the type that config.json names. With
    ``trust``, code that comes with it may run.

    Raises ModelError for what cannot be read or has layers of an unknown form.
    """
    source = resolve_model(name)
    check_hub(source)
    try:
        settings = AutoConfig.from_pretrained(source, trust_remote_code=trust)
        config = settings.get_text_config()
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust)
        shape = count_shape(model, name, _pick_dtype(config, dtype))
        return replace(shape, layer_bits=stored_bits(settings))
    except ModelError:
        raise
    except _FAILURES as error:
        refuse_code(name, error)
        raise ModelError(
            f"cannot read the shape of {name!r}: {first_line(error)} Give a folder with a "
            "config.json in Hugging Face format, or a model that `glinthawk plan` knows."
        ) from error


def count_shape(model: PreTrainedModel, name: str, dtype: str) -> ModelShape:
    """Of a model on the meta device, which is used up.

    What is neither in a layer nor in the head counts with the embedding: position tables, the last
    norm. So the shape's weights are exactly the model's.
    """
    config = model.config.get_text_config()
    layers = [_count_layer(layer, config) for layer in find_layers(model)[1]]
    total = sum(param.numel() for param in model.parameters())  # tied ones once
    head = model.get_output_embeddings().weight
    is_tied = head is model.get_input_embeddings().weight
    outside = total - sum(params for params, _ in layers)
    embedding = outside if is_tied else outside - head.numel()
    attention = _find_attention(model, len(layers))
    return ModelShape(
        name=name,
        hidden_size=config.hidden_size,
        max_model_len=getattr(config, "max_position_embeddings", None) or 1 << 20,
        dtype=dtype,
        layers=tuple(
            LayerShape(one, params, active)
            for one, (params, active) in zip(attention, layers, strict=True)
        ),
        embedding_params=embedding,
        head_params=head.numel(),
        is_tied=is_tied,
    )


def _pick_dtype(config: PreTrainedConfig, dtype: str) -> str:
    if dtype == "auto":
        dtype = str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")
    if dtype not in DTYPE_BYTES:
        raise ModelError(f"the model is in {dtype}; choose one of {', '.join(DTYPE_BYTES)}")
    return dtype


def _count_layer(layer: nn.Module, config: PreTrainedConfig) -> tuple[int, int]:
    """All weights, and those that a token meets: of the experts its share, of the rest all."""
    params = sum(param.numel() for param in layer.parameters())
    experts = sum(
        param.numel() for name, param in layer.named_parameters() if "experts" in name.split(".")
    )
    if not experts:
        return params, params
    total = next((getattr(config, one) for one in _NUM_EXPERTS if hasattr(config, one)), None)
    chosen = getattr(config, "num_experts_per_tok", None)
    if not total or not chosen:
        raise UnsupportedModel("its configuration does not say how many experts a token goes to")
    return params, params - experts + experts * int(chosen) // int(total)


@torch.no_grad()
def _find_attention(model: PreTrainedModel, num_layers: int) -> list[AttentionLayer]:
    """What a pass finds, or where none comes through an empty copy, what the configuration says.
    The model is used up."""
    try:
        _hollow(model)
        found = discover(model, LayerSlice(0, num_layers, num_layers)).layers
    except (UnsupportedModel, *_FAILURES):
        found = []
    if len(found) != num_layers:
        return [_from_config(model.config.get_text_config())] * num_layers
    return found


def _hollow(model: PreTrainedModel) -> None:
    """Give the model memory but for its linear layers, which answer zeros from now on."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.forward = partial(_zeros, module.out_features)  # type: ignore[method-assign]
            continue
        module.to_empty(device="cpu", recurse=False)
        for buffer in module.buffers(recurse=False):
            buffer.zero_()  # some are indices


def _zeros(out_features: int, rows: torch.Tensor) -> torch.Tensor:
    """(..., in_features) -> (..., out_features)."""
    return rows.new_zeros(*rows.shape[:-1], out_features)


def _from_config(config: Any) -> AttentionLayer:
    num_heads: int = config.num_attention_heads
    head_dim: int = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    return AttentionLayer(
        num_heads=num_heads,
        num_kv_heads=getattr(config, "num_key_value_heads", None) or num_heads,
        head_dim=head_dim,
        value_dim=getattr(config, "v_head_dim", None) or head_dim,
        scaling=head_dim**-0.5,
        window=getattr(config, "sliding_window", None),
    )
