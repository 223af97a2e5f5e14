"""transformers' loader, told to leave quantised weights as they are stored."""

import logging
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from glinthawk.tier1.quantized.layer_replacement import replace_layers, split_stacked
from glinthawk.tier1.quantized.quantized_experts import joined_part
from glinthawk.tier1.quantized.scheme import read_scheme

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
        replace_layers(model, read_scheme(self.quantization_config.stored), dtype)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: Any) -> None:
        split_stacked(model)

    def update_weight_conversions(self, weight_conversions: Any, model: Any) -> Any:
        """Experts have layers of their own, as in files."""
        return [one for one in weight_conversions if joined_part(one) is None]

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


def keep_quantized(settings: PreTrainedConfig, device: str) -> None:
    """Let a model that is loaded with ``settings`` keep its quantised weights, if it has any.
    Raises ValueError where they are in a format that cannot be read here."""
    stored = _stored(settings)
    if stored is None:
        return
    if device != "cpu" and _is_expanded(settings, stored):
        method = stored["quant_method"]
        _log.warning("weights in %s are expanded: they take the memory of plain ones", method)
        settings.quantization_config = {**stored, "dequantize": True}
        return
    read_scheme(stored)
    settings.quantization_config = {"quant_method": _METHOD, "stored": stored}


def stored_bits(settings: PreTrainedConfig) -> float | None:
    """Of a weight in most layers, with its share of scales and zeros; None where they are plain
    once they are read, if only on a GPU. Raises ValueError for a format that is not read here."""
    stored = _stored(settings)
    if stored is None or _is_expanded(settings, stored):
        return None
    return read_scheme(stored).bits


def _stored(settings: PreTrainedConfig) -> dict[str, Any] | None:
    found = getattr(settings, "quantization_config", None)
    return found if found is None or isinstance(found, dict) else dict(found.to_dict())


def _is_expanded(settings: PreTrainedConfig, stored: dict[str, Any]) -> bool:
    """Whether transformers expands the weights while it reads them, where they are to go to a GPU:
    one expert after the other would be expanded at every call there."""
    method = stored.get("quant_method")
    return method == "mxfp4" or (method == "fp8" and _has_experts(settings))


def _has_experts(settings: PreTrainedConfig) -> bool:
    """Many, in one tensor each."""
    text = settings.get_text_config()
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    return any((getattr(text, name, None) or 0) > 1 for name in names)
