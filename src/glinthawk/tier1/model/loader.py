"""Models by name: a local folder, a hub name, or the bundled demo."""

import logging
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from glinthawk.attention.devices import pick_device
from glinthawk.core.config import EngineConfig
from glinthawk.core.error_text import first_line
from glinthawk.core.errors import ModelError, UnsupportedModel
from glinthawk.core.hub import check_hub
from glinthawk.core.lora import adapter_names, parse_lora
from glinthawk.core.slices import LayerSlice
from glinthawk.core.source import refuse_code, resolve_model
from glinthawk.core.spec import DTYPE_BYTES, ModelSpec
from glinthawk.tier1.forward.cut import hold_states
from glinthawk.tier1.forward.experts import spread_experts
from glinthawk.tier1.forward.length_rotary import follow_lengths
from glinthawk.tier1.forward.packing import pack_model
from glinthawk.tier1.lora.adapting import adapt_model
from glinthawk.tier1.model.discovery import Discovery, discover
from glinthawk.tier1.model.heads import detach_head
from glinthawk.tier1.model.module_trace import find_layers
from glinthawk.tier1.model.rope_lengths import LongRange, find_range
from glinthawk.tier1.model.self_check import Truth, own_answers
from glinthawk.tier1.model.shards import check_shards
from glinthawk.tier1.model.weights import load_weights, make_random
from glinthawk.tier1.quantized.packed_linear import pack_quantized

__all__ = ["LoadedModel", "count_layers", "load_model"]

_log = logging.getLogger(__name__)

_DTYPES = [getattr(torch, name) for name in DTYPE_BYTES]
#: The first GPUs that compute in bfloat16.
_BFLOAT16_CAPABILITY = (8, 0)
_FAILURES = (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model, or a pipeline slice of one, ready to be run through the cut."""

    model: PreTrainedModel
    #: Of a slice: its own layers alone.
    spec: ModelSpec
    #: What it said before anything in it was replaced.
    truth: Truth
    part: LayerSlice
    #: Whether it computes its experts one after the other, though it could do it otherwise.
    spreads_experts: bool = False
    #: Of a classifier: makes labels' logits (R, N) of hidden states (R, hidden), in float32.
    head: torch.nn.Module | None = None
    #: That its rows may have, each by its number from 1 on.
    num_adapters: int = 0

    @property
    def hidden_size(self) -> int:
        """Numbers in a token's hidden state, which travels from slice to slice."""
        size: int = self.model.config.get_text_config().hidden_size
        return size


def count_layers(config: EngineConfig) -> int:
    """Decoder layers of a model, which slices are made of. Raises ModelError."""
    count: int = _read_settings(config).num_hidden_layers
    return count


@torch.inference_mode()
def load_model(config: EngineConfig, part: LayerSlice | None = None) -> LoadedModel:
    """Load weights (or make random ones), learn the attention layers; of the layers in ``part``, or
    of all. Raises ModelError."""
    settings = _read_settings(config)
    part = part or LayerSlice(0, settings.num_hidden_layers, settings.num_hidden_layers)
    if part.num_layers != settings.num_hidden_layers:
        raise ModelError(
            f"{config.model} has {settings.num_hidden_layers} layers, not {part.num_layers}; "
            "split as many"
        )
    try:
        return _load(config, part)
    except UnsupportedModel as error:
        raise _refusal(config.model, settings.model_type, part, error) from error


def _load(config: EngineConfig, part: LayerSlice) -> LoadedModel:
    model, head = detach_head(_make(config, part))
    if model.dtype not in _DTYPES:
        raise ModelError(f"{config.model} is in {model.dtype}; choose a smaller type with --dtype")
    if config.lora:
        adapt_model(model, find_layers(model)[0], part, parse_lora(config.lora))
    model.requires_grad_(False)
    model.eval()
    if config.dense == "auto" and model.device.type == "cpu":
        # Checked layer by layer: what follows runs the model many times.
        pack_quantized(model)
    spec = _describe(config, model, discover(model, part), find_range(model))
    spreads_experts = config.batch_invariant and spread_experts(model)
    truth, num_adapters = own_answers(model, spec, part), len(adapter_names(config.lora))
    loaded = LoadedModel(model, spec, truth, part, spreads_experts, head, num_adapters)
    if spec.rope is not None:
        follow_lengths(model, spec.rope.original, spec.max_model_len)
    if config.dense == "auto":
        _speed_up(model, config)
    if part.is_last:
        hold_states(model)
    return loaded


def _speed_up(model: PreTrainedModel, config: EngineConfig) -> None:
    """Replace modules by faster ones of the same meaning; of a batch-invariant run, of the same
    bits. An X-cache asks for k and v alone, which a joined product does not give."""
    if model.device.type == "cpu":
        pack_model(model, config.batch_invariant)
    elif not config.batch_invariant and not config.xcache and find_spec("triton") is not None:
        from glinthawk.tier1.forward.joining import join_model

        join_model(model)


def _read_settings(config: EngineConfig) -> PreTrainedConfig:
    source = resolve_model(config.model)
    check_hub(source)
    try:
        settings: PreTrainedConfig = AutoConfig.from_pretrained(
            source, trust_remote_code=config.trust_remote_code
        )
    except _FAILURES as error:
        raise _failure(config.model, error) from error
    return settings.get_text_config()


def _make(config: EngineConfig, part: LayerSlice) -> PreTrainedModel:
    source, device = resolve_model(config.model), pick_device(config.device)
    check_hub(source)
    dtype = _pick_dtype(config, device)
    try:
        if config.load_format == "dummy":
            return make_random(source, dtype, device, part, config.trust_remote_code)
        check_shards(Path(source))
        trust = config.trust_remote_code
        model, missing = load_weights(source, dtype, part, trust, device.type)
    except _FAILURES as error:
        raise _failure(config.model, error) from error
    if missing:  # transformers fills them with random numbers; that would answer nonsense
        raise ModelError(
            f"{config.model} lacks {len(missing)} weights, {missing[0]} among them; download it "
            "again"
        )
    return model.to(device)


def _pick_dtype(config: EngineConfig, device: torch.device) -> torch.dtype | str:
    """What the weights are computed in; "auto" is what they are stored in, but for bfloat16 on GPUs
    that do not have it."""
    if config.dtype != "auto":
        wish: torch.dtype = getattr(torch, config.dtype)
        return wish
    is_old = device.type == "cuda" and (
        torch.cuda.get_device_capability(device) < _BFLOAT16_CAPABILITY
    )
    if not is_old or _read_settings(config).dtype != torch.bfloat16:
        return "auto"
    _log.warning("this GPU does not compute in bfloat16: float16 is used, as with --dtype float16")
    return torch.float16


def _describe(
    config: EngineConfig, model: PreTrainedModel, found: Discovery, beyond: LongRange | None
) -> ModelSpec:
    text = model.config.get_text_config()
    longest = getattr(text, "max_position_embeddings", None) or 1 << 20
    reason = "the model has no positions beyond"
    if beyond is not None and beyond.is_known:
        longest = beyond.longest
    elif beyond is not None and beyond.rope.original < longest:
        longest = beyond.rope.original
        reason = f"its {beyond.kind} rotary embedding is not understood beyond"
    if found.max_len is not None and found.max_len < longest:
        longest, reason = found.max_len, found.reason
    if config.max_model_len is not None and config.max_model_len > longest:
        raise ModelError(
            f"--max-model-len {config.max_model_len} is too long for {config.model}: {reason} "
            f"{longest} tokens; give at most that"
        )
    max_model_len = config.max_model_len or longest
    changes = beyond is not None and beyond.is_known and max_model_len > beyond.rope.original
    return ModelSpec(
        name=config.model,
        dtype=str(model.dtype).removeprefix("torch."),
        vocab_size=text.vocab_size,
        max_model_len=max_model_len,
        layers=tuple(found.layers),
        longest_len=longest,
        rope=beyond.rope if beyond is not None and changes else None,
    )


def _refusal(name: str, kind: str, part: LayerSlice, error: Exception) -> UnsupportedModel:
    if part.is_whole:
        return UnsupportedModel(
            f"{name} ({kind}) cannot run on two tiers: {error}. Its answers would be wrong; use a "
            "model whose attention goes through transformers' attention interface."
        )
    return UnsupportedModel(
        f"layers {part.first}:{part.last} of {name} ({kind}) cannot run by themselves: {error}. "
        "Their answers would be wrong; run the model whole."
    )


def _failure(name: str, error: Exception) -> ModelError:
    refuse_code(name, error)
    return ModelError(
        f"cannot load {name!r}: {first_line(error)} Give a folder in Hugging Face format, a GGUF "
        "file, a hub name, or demo."
    )
