"""transformers' loader, told to leave quantised weights as they are stored."""

import logging
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from glinthawk.tier1.quantized.quantized_linear import QuantizedLinear
from glinthawk.tier1.quantized.scheme import Scheme, read_scheme

__all__ = ["keep_quantized", "stored_bits"]

_log = logging.getLogger(__name__)

_METHOD = "glinthawk"


@register_quantization_config(_METHOD)
class _Settings(QuantizationConfigMixin):  # type: ignore[misc]
    """``stored``: the checkpoint's own ``quantization_config``."""

    def __init__(self, stored: dict[str, Any], **_: Any) -> None:
        self.quant_method = _METHOD
        self.stored = stored


@register_quantizer(_METHOD)
class _Quantizer(HfQuantizer):  # type: ignore[misc]
    """Puts layers into the model that take a checkpoint's tensors as they are."""

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        dtype = kwargs.get("dtype") or torch.get_default_dtype()
        _replace(model, read_scheme(self.quantization_config.stored), dtype)

    def get_new_dtype(self, converter: Any, param: Any, dtype: Any) -> Any:
        """As the model has it: codes in float8 are not converted."""
        return dtype

    @property
    def is_trainable(self) -> bool:
        """It is not."""
        return False

    def is_serializable(self) -> bool:
        """It is not."""
        return False


def keep_quantized(settings: PreTrainedConfig) -> None:
    """Let a model that is loaded with ``settings`` keep its quantised weights, if it has any.
    Raises ValueError where they are in a format that cannot be read here."""
    stored = _stored(settings)
    if stored is None:
        return
    if _is_expanded(settings, stored):
        method = stored["quant_method"]
        _log.warning("weights in %s are expanded: they take the memory of plain ones", method)
        settings.quantization_config = {**stored, "dequantize": True}
        return
    scheme = read_scheme(stored)
    if _has_experts(settings):
        raise ValueError(f"its experts are in {scheme.method}")
    settings.quantization_config = {"quant_method": _METHOD, "stored": stored}


def stored_bits(settings: PreTrainedConfig) -> float | None:
    """Of a weight in most layers, with its share of scales and zeros; None where they are plain
    once they are read. Raises ValueError for a format that cannot be read here."""
    stored = _stored(settings)
    if stored is None or _is_expanded(settings, stored):
        return None
    return read_scheme(stored).bits


def _stored(settings: PreTrainedConfig) -> dict[str, Any] | None:
    found = getattr(settings, "quantization_config", None)
    return found if found is None or isinstance(found, dict) else dict(found.to_dict())


def _is_expanded(settings: PreTrainedConfig, stored: dict[str, Any]) -> bool:
    """Whether transformers expands the weights while it reads them."""
    method = stored.get("quant_method")
    return method == "mxfp4" or (method == "fp8" and _has_experts(settings))


def _has_experts(settings: PreTrainedConfig) -> bool:
    """Many, in one tensor each."""
    text = settings.get_text_config()
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    return any((getattr(text, name, None) or 0) > 1 for name in names)


def _replace(model: nn.Module, scheme: Scheme, dtype: torch.dtype) -> None:
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and (layout := scheme.layout(name)) is not None:
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, _make(name, module, layout, dtype))


def _make(name: str, linear: nn.Linear, layout: Any, dtype: torch.dtype) -> QuantizedLinear:
    try:
        return QuantizedLinear(linear, layout, dtype)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
