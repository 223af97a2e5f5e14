"""What a model's rotary embedding makes of sequences beyond its original length."""

from dataclasses import dataclass

import torch
from transformers import DynamicCache, PreTrainedModel

from glinthawk.core.rope import LengthRope
from glinthawk.tier1.forward.length_rotary import follows_lengths

__all__ = ["LongRange", "find_range"]


@dataclass(frozen=True, slots=True)
class LongRange:
    """Beyond which length rotation changes with every sequence's own, and where that ends."""

    kind: str
    rope: LengthRope
    longest: int
    #: Whether rows can be rotated so, each by its own length.
    is_known: bool


def find_range(model: PreTrainedModel) -> LongRange | None:
    """None: its rotary embedding is the same at any length."""
    config = model.config.get_text_config()
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    for rope in nested or [parameters]:
        kind = rope.get("rope_type", "default")
        if kind not in ("dynamic", "longrope"):
            continue
        longest = original = config.max_position_embeddings
        if kind == "longrope":
            original = rope.get("original_max_position_embeddings") or original
        else:  # for as much more as it was made for
            longest = int(original * rope.get("factor", 1.0))
        renews = _feeds_again(model, original)
        is_known = renews is not None and not nested and follows_lengths(model, original)
        return LongRange(kind, LengthRope(original, bool(renews)), longest, is_known)
    return None


def _feeds_again(model: PreTrainedModel, original: int) -> bool | None:
    """Whether ``generate`` drops the cache of a sequence that grows beyond ``original`` tokens, and
    feeds all of them again; None where the model does not tell."""
    ids = torch.ones(1, original + 1, dtype=torch.long, device=model.device)
    row = torch.zeros(1, 1, original, 1, device=model.device)
    cache = DynamicCache()
    cache.update(row, row, 0)
    try:
        inputs = model.prepare_inputs_for_generation(
            ids, past_key_values=cache, attention_mask=torch.ones_like(ids), next_sequence_length=1
        )
        return bool(inputs["input_ids"].shape[1] > 1)
    except Exception:  # it prepares what we know nothing of
        return None
