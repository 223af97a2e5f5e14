"""GGUF files of tiny models, written by the format's own library, and the models that they mean."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

__all__ = ["random_blocks", "write_gguf"]

#: Where a block has numbers in float16.
_SCALES = {
    **dict.fromkeys(("Q4_0", "Q5_0", "Q8_0"), (0,)),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2)),
    "Q6_K": (208,),
}

_OUTSIDE = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
_INSIDE = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(plain: Path, folder: Path, types: Mapping[str, str], **fields: Any) -> Path:
    """The model in ``plain``, with matrices in the ``types`` that ends of their layers' names have
    (others are in float32); in ``folder``/truth what it means. ``fields`` are further metadata and,
    as arrays, tensors."""
    settings = AutoConfig.from_pretrained(plain)
    kind = "llama" if settings.model_type == "mistral" else settings.model_type
    folder.mkdir(parents=True)
    writer = gguf.GGUFWriter(folder / "model.gguf", kind)
    _describe(writer, settings)
    _add_fields(writer, kind, fields)
    meant = {}
    for name, tensor in load_file(plain / "model.safetensors").items():
        stem, _, end = name.rpartition(".")
        chosen = next((types[part] for part in types if stem.endswith(part)), "F32")
        stored = GGMLQuantizationType[chosen if tensor.dim() == 2 else "F32"]
        raw = _quantise(tensor.float().numpy(), stored)
        heads = {"q_proj": settings.num_attention_heads, "k_proj": settings.num_key_value_heads}
        pairs = heads.get(stem.rpartition(".")[2]) if kind == "llama" else None
        writer.add_tensor(f"{_rename(stem)}.{end}", _paired(raw, pairs), raw_dtype=stored)
        meant[name] = torch.tensor(gguf.dequantize(raw, stored)).view(tensor.shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = AutoModelForCausalLM.from_config(settings)
    model.load_state_dict(meant, strict=not settings.tie_word_embeddings)
    model.save_pretrained(folder / "truth")
    return folder / "model.gguf"


def random_blocks(kind: str, rows: int, inputs: int) -> Any:
    """Bytes (rows, bytes of a row) of blocks with scales of a sane size."""
    stored = GGMLQuantizationType[kind]
    size, octets = gguf.GGML_QUANT_SIZES[stored]
    generator = np.random.default_rng(rows * inputs)
    blocks = generator.integers(0, 256, (rows * inputs // size, octets), dtype=np.uint8)
    for place in _SCALES[kind]:
        scales = generator.uniform(0, 6e-4, (len(blocks), 1)).astype(np.float16)
        blocks[:, place : place + 2] = scales.view(np.uint8)
    return blocks.reshape(rows, -1)


def _quantise(values: Any, stored: Any) -> Any:
    """The library does not write types of 256 inputs."""
    if stored.name in ("Q4_K", "Q5_K", "Q6_K"):
        return random_blocks(stored.name, *values.shape)
    return gguf.quantize(values, stored)


def _add_fields(writer: Any, kind: str, fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        match value:
            case str():
                writer.add_string(f"{kind}.{name}", value)
            case int():
                writer.add_uint32(f"{kind}.{name}", value)
            case float():
                writer.add_float32(f"{kind}.{name}", value)
            case _:
                writer.add_tensor(name, value)


def _describe(writer: Any, settings: Any) -> None:
    writer.add_block_count(settings.num_hidden_layers)
    writer.add_context_length(settings.max_position_embeddings)
    writer.add_embedding_length(settings.hidden_size)
    writer.add_feed_forward_length(settings.intermediate_size)
    writer.add_head_count(settings.num_attention_heads)
    writer.add_head_count_kv(settings.num_key_value_heads)
    writer.add_key_length(settings.head_dim)
    writer.add_value_length(settings.head_dim)
    writer.add_rope_dimension_count(settings.head_dim)
    writer.add_rope_freq_base(settings.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(settings.rms_norm_eps)
    writer.add_eos_token_id(2)


def _rename(stem: str) -> str:
    if stem in _OUTSIDE:
        return _OUTSIDE[stem]
    _, _, number, inner = stem.split(".", 3)
    return f"blk.{number}.{_INSIDE[inner]}"


def _paired(weight: Any, heads: int | None) -> Any:
    """Row i of the first half of a head beside row i of the second."""
    if heads is None:
        return weight
    size = len(weight) // heads
    order = [
        head * size + half * size // 2 + i
        for head in range(heads)
        for i in range(size // 2)
        for half in (0, 1)
    ]
    return np.ascontiguousarray(weight[order])
