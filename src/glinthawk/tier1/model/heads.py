"""Which of transformers' classes a checkpoint is, and the head that runs apart from its decoder."""

from typing import Any

from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from glinthawk.core.model_kind import kind_of

__all__ = ["auto_class", "detach_head"]

_CLASSES = {
    "causal": AutoModelForCausalLM,
    "base": AutoModel,
    "classifier": AutoModelForSequenceClassification,
}


def auto_class(settings: Any) -> Any:
    """What loads the model of this config.json."""
    judges = getattr(settings, "classifier_from_token", None) is not None
    own = getattr(settings, "auto_map", None)
    return _CLASSES[kind_of(getattr(settings, "architectures", None), judges, own)]


def detach_head(model: PreTrainedModel) -> tuple[PreTrainedModel, nn.Module | None]:
    """A classifier's decoder, which ends with hidden states, and its head in float32; any other
    model as it is. A classifier's own forward would look for the last token that is no padding."""
    head = getattr(model, "score", None)
    if not isinstance(head, nn.Module) or model.base_model is model:
        return model, None
    return model.base_model, head.float()
