"""Which keys a query sees, asked of the model itself.

transformers builds a layer's mask from a function of (query position, key position). Under the name
``DISCOVERY`` the model calls ours instead, which evaluates that function at a few positions and
recognises its shape; what comes back travels through the model to the layers that use it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from glinthawk.core.errors import UnsupportedModel
from glinthawk.tier1.forward.cut import suspended_attention

__all__ = ["DISCOVERY", "MaskShape", "recognise"]

DISCOVERY = "glinthawk-discovery"

#: Far enough to be beyond any window or chunk in use.
_FAR = 1 << 20


@dataclass(frozen=True, slots=True)
class MaskShape:
    """Causal, and if ``window`` is set only that many newest keys; exact below ``max_len``."""

    window: int | None = None
    max_len: int | None = None


def recognise(allowed: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> MaskShape:
    """The shape of the mask ``allowed(query, key)``, index tensors in, booleans out.

    A query far out sees either everything (causal), a fixed number of newest keys (sliding window),
    or its chunk; below the first chunk border a chunked mask is plainly causal.
    """
    first = _first_visible(allowed, _FAR)
    if first == 0:
        shape = MaskShape()
    elif _first_visible(allowed, _FAR + 1) == first + 1:
        shape = MaskShape(window=_FAR + 1 - first)
    else:
        shape = MaskShape(max_len=_chunk_size(allowed, first))
    _verify(allowed, shape)
    return shape


def _first_visible(
    allowed: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], query: int
) -> int:
    """The first key that ``query`` sees; all keys from there to itself must be visible."""
    visible = allowed(torch.tensor(query), torch.arange(query + 2)).expand(query + 2)
    if visible[query + 1] or not visible[query]:
        raise UnsupportedModel("its attention is not causal")
    first = int(visible.to(torch.uint8).argmax())
    if not visible[first : query + 1].all():
        raise UnsupportedModel("its attention mask has holes")
    return first


def _chunk_size(allowed: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], start: int) -> int:
    """Length of the chunk that begins at ``start``."""
    queries = torch.arange(start, 2 * _FAR)
    inside = allowed(queries, torch.tensor(start)).expand(len(queries))
    return int(inside.to(torch.uint8).argmin())


def _verify(
    allowed: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], shape: MaskShape
) -> None:
    """Compare with the whole mask around zero and around the edge of the window or chunk."""
    edge = shape.window or shape.max_len or 0
    for base in {0, max(0, edge - 48), max(0, 2 * edge - 48) if shape.window else 0}:
        query = torch.arange(base, base + 96).unsqueeze(1)
        if shape.max_len is not None:
            query = query[query[:, 0] < shape.max_len]
        key = torch.arange(0, base + 96).unsqueeze(0)
        expected = key <= query
        if shape.window is not None:
            expected &= key > query - shape.window
        if len(query) and not torch.equal(allowed(query, key).expand(expected.shape), expected):
            raise UnsupportedModel("its attention mask is neither causal nor a sliding window")


def _discover_mask(mask_function: Callable[..., Any], **_: Any) -> MaskShape:
    def allowed(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        zero = torch.tensor(0)
        result: torch.Tensor = torch.as_tensor(mask_function(zero, zero, query, key))
        return result.cpu()

    return recognise(allowed)


AttentionInterface.register(DISCOVERY, suspended_attention)
AttentionMaskInterface.register(DISCOVERY, _discover_mask)
