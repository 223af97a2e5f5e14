"""The models that are measured: real shapes, random weights, made on the spot."""

import json
import tempfile
from pathlib import Path
from typing import Any

from glinthawk.core.config import Dense, Device, EngineConfig
from glinthawk.tier1.model.loader import LoadedModel, load_model

__all__ = ["SHAPES", "load_shape", "write_shape"]

_LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "max_position_embeddings": 131_072,
    "dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
}

_OPT = {
    "model_type": "opt",
    "architectures": ["OPTForCausalLM"],
    "max_position_embeddings": 8192,
    "dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "vocab_size": 32_000,
    "num_hidden_layers": 12,
    "do_layer_norm_before": True,
}

#: S is tiny, M is small; L is Llama-3.2-1B, XL is Llama-3.1-8B. O and P have a KV head for each
#: query head: O is OPT-125M but for its positions and vocabulary, P has a third of its width.
SHAPES: dict[str, dict[str, Any]] = {
    "S": {
        **_LLAMA,
        "hidden_size": 512,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "intermediate_size": 1408,
        "vocab_size": 32_000,
    },
    "M": {
        **_LLAMA,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "intermediate_size": 2048,
        "vocab_size": 32_000,
    },
    "L": {
        **_LLAMA,
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "intermediate_size": 8192,
        "vocab_size": 128_256,
        "tie_word_embeddings": True,
    },
    "XL": {
        **_LLAMA,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 14_336,
        "vocab_size": 128_256,
    },
    "O": {
        **_OPT,
        "hidden_size": 768,
        "word_embed_proj_dim": 768,
        "num_attention_heads": 12,
        "ffn_dim": 3072,
    },
    "P": {
        **_OPT,
        "hidden_size": 256,
        "word_embed_proj_dim": 256,
        "num_attention_heads": 4,
        "ffn_dim": 1024,
    },
}


def write_shape(folder: Path, name: str) -> Path:
    """A folder with nothing but the ``config.json`` of a shape."""
    (folder / "config.json").write_text(json.dumps(SHAPES[name]))
    return folder


def load_shape(
    name: str, dense: Dense = "auto", batch_invariant: bool = False, device: Device = "cpu"
) -> LoadedModel:
    """A shape with random weights; the same at every call."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_shape(Path(folder), name)
        config = EngineConfig(
            model=str(path),
            load_format="dummy",
            dense=dense,
            batch_invariant=batch_invariant,
            device=device,
        )
        return load_model(config)
