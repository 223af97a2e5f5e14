"""Models by name: a local folder, a hub name, or the bundled demo."""

from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import ModelError, UnsupportedModel
from glinthawk.core.source import resolve_model
from glinthawk.core.spec import DTYPE_BYTES, ModelSpec
from glinthawk.tier1.check import Truth, own_answers
from glinthawk.tier1.discovery import Discovery, discover
from glinthawk.tier1.packing import pack_model

__all__ = ["LoadedModel", "load_model"]


_DTYPES = [getattr(torch, name) for name in DTYPE_BYTES]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to be run through the cut."""

    model: PreTrainedModel
    spec: ModelSpec
    #: What it said before anything in it was replaced.
    truth: Truth


@torch.inference_mode()
def load_model(config: EngineConfig) -> LoadedModel:
    """Load weights (or make random ones), learn the attention layers. Raises ModelError."""
    source = resolve_model(config.model)
    device = _pick_device(config.device)
    model = _make(source, config, device)
    if model.dtype not in _DTYPES:
        raise ModelError(f"{config.model} is in {model.dtype}; choose a smaller type with --dtype")
    model.requires_grad_(False)
    model.eval()
    try:
        found = discover(model)
    except UnsupportedModel as error:
        raise _refusal(config.model, model, error) from error
    spec = _describe(config, model, found)
    truth = own_answers(model, spec)
    if config.dense == "auto":
        pack_model(model)
    return LoadedModel(model, spec, truth)


def _pick_device(wish: str) -> torch.device:
    """``auto`` is the GPU if there is one."""
    if wish == "cuda" and not torch.cuda.is_available():
        raise ModelError("there is no CUDA device here; use --device cpu or auto")
    if wish == "auto":
        wish = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wish)


def _make(source: str, config: EngineConfig, device: torch.device) -> PreTrainedModel:
    dtype = "auto" if config.dtype == "auto" else getattr(torch, config.dtype)
    try:
        if config.load_format == "dummy":
            return _random(source, dtype, device)
        model, info = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, output_loading_info=True
        )
        _check_weights(config.model, info)
        return model.to(device)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"cannot load {config.model!r}: {_first_line(error)} Give a folder in Hugging Face "
            "format, a hub name, or demo."
        ) from error


def _check_weights(name: str, info: dict[str, Any]) -> None:
    """transformers fills what a file lacks with random numbers; that would answer nonsense."""
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"{name} lacks {len(missing)} weights, {missing[0]} among them; download it again"
        )


def _random(source: str, dtype: torch.dtype | str, device: torch.device) -> PreTrainedModel:
    """The architecture of ``source`` with random weights, the same at every call."""
    settings = AutoConfig.from_pretrained(source)
    if dtype == "auto":
        dtype = settings.get_text_config().dtype or torch.float32
    torch.manual_seed(0)
    with device:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(settings, dtype=dtype)
    return model


def _describe(config: EngineConfig, model: PreTrainedModel, found: Discovery) -> ModelSpec:
    text = model.config.get_text_config()
    longest = getattr(text, "max_position_embeddings", None) or 1 << 20
    reason = "the model has no positions beyond"
    if found.max_len is not None and found.max_len < longest:
        longest, reason = found.max_len, found.reason
    if config.max_model_len is not None and config.max_model_len > longest:
        raise ModelError(
            f"--max-model-len {config.max_model_len} is too long for {config.model}: {reason} "
            f"{longest} tokens"
        )
    return ModelSpec(
        name=config.model,
        dtype=str(model.dtype).removeprefix("torch."),
        vocab_size=text.vocab_size,
        max_model_len=config.max_model_len or longest,
        layers=tuple(found.layers),
    )


def _refusal(name: str, model: PreTrainedModel, error: Exception) -> UnsupportedModel:
    kind = model.config.model_type
    return UnsupportedModel(
        f"{name} ({kind}) cannot run on two tiers: {error}. Its answers would be wrong; use a "
        "model whose attention goes through transformers' attention interface."
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
