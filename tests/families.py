"""Tiny models with random weights, one of every family that the cut is tested with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

__all__ = ["FAMILIES", "REFUSED", "make_model", "make_settings"]

_VOCAB = 211

_BASE: dict[str, Any] = {
    "vocab_size": _VOCAB,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_NO_GROUPS = {"num_key_value_heads": 4}
_EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}

#: model_type -> settings beyond _BASE. Windows are shorter than the tests' longest prompts.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 12},
    "gemma2": {"sliding_window": 12, "query_pre_attn_scalar": 16},
    "gemma3_text": {"sliding_window": 12, "sliding_window_pattern": 2, "query_pre_attn_scalar": 16},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64, "do_layer_norm_before": True},
    "gpt2": {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 512, "n_inner": 96},
    "gpt_neox": {"rotary_pct": 0.25},
    "phi3": {},
    "mixtral": _EXPERTS,
    "phimoe": _EXPERTS,
    "qwen3_moe": {**_EXPERTS, "moe_intermediate_size": 32},
    "deepseek_v3": {
        "n_routed_experts": 4,
        "n_group": 2,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
        "moe_intermediate_size": 32,
        "q_lora_rank": 24,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 16,
        "v_head_dim": 16,
        **_NO_GROUPS,
    },
    "gpt_oss": {**_EXPERTS, "sliding_window": 12},
    "phi": _NO_GROUPS,
    "olmo2": {},
    "granite": {},
    "starcoder2": {},
    "cohere": {},
    "stablelm": {},
    "smollm3": {},
    "glm4": {"partial_rotary_factor": 0.5},
    "exaone4": {"sliding_window": 12},
}

#: Families that must be refused at load, by name: attention of their own, recurrent state.
REFUSED: dict[str, dict[str, Any]] = {
    "falcon": {"alibi": False, "new_decoder_architecture": False, "multi_query": False},
    "bloom": {"n_layer": 3, "n_head": 4},
    "mamba": {"state_size": 8},
    "gpt_neo": {
        "num_layers": 4,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 2]],
        "window_size": 12,
        "num_hidden_layers": 4,
    },
}

_DROP_HEAD_DIM = {"opt", "gpt2", "gpt_neox", "phi", "phi3", "stablelm", "starcoder2", "deepseek_v3"}


def make_settings(family: str, **others: Any) -> PreTrainedConfig:
    """The configuration of a tiny ``family`` model."""
    settings = {**_BASE, **{**FAMILIES, **REFUSED}[family], **others}
    if family in _DROP_HEAD_DIM or family in REFUSED:
        settings.pop("head_dim")
    return AutoConfig.for_model(family, **settings)


def make_model(folder: Path, family: str, **others: Any) -> Path:
    """Write a tiny random ``family`` model to ``folder`` in Hugging Face format, no tokenizer."""
    config = make_settings(family, **others)
    torch.manual_seed(len(family))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    _roughen(model)
    model.save_pretrained(folder / family)
    return folder / family


def _roughen(model: torch.nn.Module) -> None:
    """Random everywhere, so that no norm, bias, sink or router is at a value that hides a fault."""
    generator = torch.Generator().manual_seed(7)
    noise: Callable[[torch.Tensor], torch.Tensor] = lambda p: torch.randn(  # noqa: E731
        p.shape, generator=generator
    )
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.3 if parameter.dim() < 2 else 2.0 / parameter.shape[-1] ** 0.5
            parameter.add_(scale * noise(parameter))
