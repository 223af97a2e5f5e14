"""What a model's attention layers are, learned by running the model once."""

from typing import Any

import torch
from transformers import PreTrainedModel

from glinthawk.core.errors import UnsupportedModel
from glinthawk.core.slices import LayerSlice
from glinthawk.core.spec import AttentionLayer
from glinthawk.tier1.forward.cut import IMPLEMENTATION, Call, Pass, make_hidden
from glinthawk.tier1.model.masks import DISCOVERY, MaskShape

__all__ = ["Discovery", "discover"]

#: What a call may carry beside q, k, v. A tensor under any other name would be lost: refused.
_UNDERSTOOD = {"s_aux", "position_ids", "position_embeddings", "cache_position"}


class Discovery:
    """Layers in the order in which a pass calls them, and a length limit with its reason."""

    def __init__(self) -> None:
        self.layers: list[AttentionLayer] = []
        self.max_len: int | None = None
        self.reason = ""

    def limit(self, max_len: int, reason: str) -> None:
        """Answers are exact only below ``max_len`` tokens."""
        if self.max_len is None or max_len < self.max_len:
            self.max_len, self.reason = max_len, reason


def discover(model: PreTrainedModel, part: LayerSlice) -> Discovery:
    """Run a pass of two tokens and write down every attention call.

    Raises UnsupportedModel when the model does not call attention through the interface, once (or
    a whole number of times) for each of its layers; a slice once, for else its layers may take
    turns with those of others.
    """
    found = Discovery()
    config = model.config.get_text_config()
    config._attn_implementation = DISCOVERY
    try:
        _run(model, part, found)
    except UnsupportedModel:
        raise
    except Exception as error:
        if MaskShape.__name__ in str(error):
            raise UnsupportedModel("it computes attention by itself") from error
        raise UnsupportedModel(f"its forward fails when it is cut: {error}") from error
    finally:
        config._attn_implementation = IMPLEMENTATION
    times, rest = divmod(len(found.layers), len(part))
    if rest or not times or (times > 1 and not part.is_whole):
        raise UnsupportedModel(
            f"a forward pass of its {len(part)} layers called attention through transformers' "
            f"interface {len(found.layers)} times"
        )
    return found


def _run(model: PreTrainedModel, part: LayerSlice, found: Discovery) -> None:
    ids = torch.tensor([1, 2], device=model.device)
    hidden = None if part.is_first else make_hidden(model, 2)
    forward = Pass(model, ids, torch.arange(2, device=model.device), torch.tensor([1]), hidden)
    result = forward.resume(None)
    while isinstance(result, Call):
        found.layers.append(_describe(result, found))
        _, heads, rows, _ = result.queries.shape
        result = forward.resume(result.queries.new_zeros(rows, heads, result.values.shape[-1]))


def _describe(call: Call, found: Discovery) -> AttentionLayer:
    _, num_heads, _, head_dim = call.queries.shape
    _, num_kv_heads, _, value_dim = call.values.shape
    mask = call.mask
    if not isinstance(mask, MaskShape):
        raise UnsupportedModel("it builds attention masks of its own")
    if mask.max_len is not None:
        found.limit(mask.max_len, "attention in chunks is exact only within the first chunk")
    _refuse_unknown(call.options)
    sinks = call.options.get("s_aux")
    return AttentionLayer(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        value_dim=value_dim,
        scaling=_scaling(call),
        window=mask.window,
        softcap=call.options.get("softcap"),
        sinks=None if sinks is None else tuple(sinks.float().flatten().tolist()),
    )


def _scaling(call: Call) -> float:
    """The factor on the scores; attention functions default to 1 / sqrt(D)."""
    scaling = call.options.get("scaling")
    return float(call.queries.shape[-1] ** -0.5 if scaling is None else scaling)


def _refuse_unknown(options: dict[str, Any]) -> None:
    if options.get("is_causal") is False:
        raise UnsupportedModel("its attention is not causal")
    for name, value in options.items():
        if isinstance(value, torch.Tensor) and name not in _UNDERSTOOD:
            raise UnsupportedModel(f"its attention takes {name!r}, which cannot be cut")
