"""What config.json would say of a model in a GGUF file.

Metadata and tensors have llama.cpp's names, which the package ``gguf`` lists (``gguf.constants``).
"""

import math
import re
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from glinthawk.core.errors import ModelError

__all__ = ["PACKED", "describe_gguf", "name_weight"]

#: Types of weights whose codes products are computed from.
PACKED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
_PLAIN = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
#: Architectures of which all is known. Mistral's files say that they are Llama's.
_ARCHITECTURES = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}

_OUTSIDE = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_INSIDE = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
#: Factors by which llama.cpp slows rotary frequencies down, in the place of Llama 3's settings.
_FREQUENCIES = "rope_freqs.weight"
_LLAMA3 = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def name_weight(name: str) -> str | None:
    """What transformers calls a tensor; None for one that it does not have."""
    stem, _, end = name.rpartition(".")
    if stem in _OUTSIDE:
        return f"{_OUTSIDE[stem]}.{end}"
    found = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
    if found is None or found[2] not in _INSIDE or end not in ("weight", "bias"):
        return None
    return f"model.layers.{found[1]}.{_INSIDE[found[2]]}.{end}"


def describe_gguf(file: Path) -> dict[str, Any]:
    """config.json. Raises ModelError for what is not understood."""
    if find_spec("gguf") is None:
        raise ModelError(f"{file} is a GGUF file: pip install 'glinthawk[gguf]' to read it")
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
    except (ValueError, OSError, IndexError) as error:
        raise ModelError(f"{file} is no whole GGUF file ({error}); download it again") from error
    try:
        return _Metadata(reader).settings()
    except ValueError as error:
        raise ModelError(
            f"{file} cannot be read: {error}; give a GGUF file of Llama, Mistral, Qwen2 or Qwen3, "
            "or a folder in Hugging Face format"
        ) from error


class _Metadata:
    """Raises ValueError for what is not understood."""

    def __init__(self, reader: Any) -> None:
        self._fields = reader.fields
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self._kind = str(self._read("general.architecture"))
        if "split.count" in self._fields and self._read("split.count") > 1:
            raise ValueError("it is one part of a model in several files")
        if self._kind not in _ARCHITECTURES or self._get("expert_count", 0):
            experts = " with experts" if self._get("expert_count", 0) else ""
            raise ValueError(f"its architecture is {self._kind}{experts}")

    def settings(self) -> dict[str, Any]:
        heads, hidden = self._get("attention.head_count"), self._get("embedding_length")
        rotated = self._get("rope.dimension_count", hidden // heads)
        window = self._get("attention.sliding_window", None) if self._kind == "llama" else None
        family = "Mistral" if window else _ARCHITECTURES[self._kind]
        self._check(head_dim := self._get("attention.key_length", rotated), rotated)
        return {
            "model_type": family.lower(),
            "architectures": [f"{family}ForCausalLM"],
            "hidden_size": hidden,
            "num_hidden_layers": self._get("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": self._get("attention.head_count_kv", heads),
            "head_dim": head_dim,
            "intermediate_size": self._get("feed_forward_length"),
            "max_position_embeddings": self._get("context_length"),
            "rms_norm_eps": self._get("attention.layer_norm_rms_epsilon"),
            "rope_theta": self._get("rope.freq_base", 10000.0),
            "rope_scaling": self._scaling(head_dim),
            "vocab_size": int(self._tensors["token_embd.weight"].shape[1]),
            "tie_word_embeddings": "output.weight" not in self._tensors,
            "has_tokenizer": "tokenizer.ggml.tokens" in self._fields,
            "attention_bias": "blk.0.attn_q.bias" in self._tensors,
            **({"sliding_window": window} if window else {}),
            **self._token_ids(),
            **self._types(),
        }

    def _read(self, name: str) -> Any:
        if name not in self._fields:
            raise ValueError(f"it does not say {name}")
        return self._fields[name].contents()

    def _get(self, name: str, *default: Any) -> Any:
        """Of the architecture."""
        name = f"{self._kind}.{name}"
        return default[0] if default and name not in self._fields else self._read(name)

    def _check(self, head_dim: int, rotated: int) -> None:
        if rotated != head_dim or self._get("attention.value_length", head_dim) != head_dim:
            raise ValueError(f"its heads of {head_dim} are not all rotated, or have other values")
        for name in self._tensors:
            if name_weight(name) is None and name != _FREQUENCIES:
                raise ValueError(f"its tensor {name} is not known")

    def _scaling(self, head_dim: int) -> dict[str, Any] | None:
        kind = self._get("rope.scaling.type", "none")
        if _FREQUENCIES in self._tensors:
            return self._llama3_scaling(head_dim)
        if kind == "none":
            return None
        if kind not in ("linear", "yarn"):
            raise ValueError(f"its rotary embedding is scaled by {kind}")
        scaling = {"rope_type": kind, "factor": self._get("rope.scaling.factor")}
        if kind == "yarn":
            original = self._get("rope.scaling.original_context_length")
            scaling["original_max_position_embeddings"] = original
        return scaling

    def _llama3_scaling(self, head_dim: int) -> dict[str, Any]:
        """The settings that come to the factors in the file. Raises ValueError if none do."""
        found = [float(one) for one in self._tensors[_FREQUENCIES].data]
        base = self._get("rope.freq_base", 10000.0)
        factor = round(max(found))
        wanted = [_llama3_factor(base ** (n / head_dim), factor) for n in range(0, head_dim, 2)]
        if any(not math.isclose(a, b, rel_tol=1e-3) for a, b in zip(found, wanted, strict=True)):
            raise ValueError("its rotary frequencies are scaled in a way of its own")
        return {"rope_type": "llama3", "factor": float(factor), **_LLAMA3}

    def _token_ids(self) -> dict[str, Any]:
        """An answer ends with the end of a text, or of a turn."""
        ids = {
            name: self._fields[f"tokenizer.ggml.{name}_token_id"].contents()
            for name in ("bos", "eos", "eot", "padding")
            if f"tokenizer.ggml.{name}_token_id" in self._fields
        }
        ends = list(dict.fromkeys(ids[name] for name in ("eos", "eot") if name in ids))
        return {
            "bos_token_id": ids.get("bos"),
            "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
            "pad_token_id": ids.get("padding"),
        }

    def _types(self) -> dict[str, Any]:
        """Which linear layers are in which type; and that of everything else."""
        layers = defaultdict(list)
        types = {tensor.tensor_type.name for tensor in self._tensors.values()}
        for name, tensor in self._tensors.items():
            if tensor.tensor_type.name in PACKED and name != "token_embd.weight":
                place = name_weight(name) or ""
                layers[tensor.tensor_type.name].append(place.removesuffix(".weight"))
        dtype = next((_PLAIN[one] for one in _PLAIN if one in types), "bfloat16")
        if types <= _PLAIN.keys():
            return {"dtype": dtype}
        stored = {"quant_method": "gguf", "layers": dict(layers)}
        return {"dtype": "bfloat16", "quantization_config": stored}


def _llama3_factor(period: float, factor: float) -> float:
    """By which a frequency 1 / ``period`` is divided (transformers' "llama3")."""
    turns = _LLAMA3["original_max_position_embeddings"] / (2 * math.pi * period)
    low, high = _LLAMA3["low_freq_factor"], _LLAMA3["high_freq_factor"]
    if turns > high:
        return 1.0
    if turns < low:
        return factor
    smooth = (turns - low) / (high - low)
    return 1 / ((1 - smooth) / factor + smooth)
