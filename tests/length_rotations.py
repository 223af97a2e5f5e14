"""Tiny models whose rotary embedding changes with a sequence's length."""

from typing import Any

__all__ = ["ORIGINAL", "ROTATIONS"]

#: Tokens up to which nothing changes: a page and some.
ORIGINAL = 40


def _long(num_factors: int, **others: Any) -> dict[str, Any]:
    rope = {
        "rope_theta": 10_000.0,
        "rope_type": "longrope",
        "original_max_position_embeddings": ORIGINAL,
        "short_factor": [1.0 + 0.1 * place for place in range(num_factors)],
        "long_factor": [3.0 - 0.2 * place for place in range(num_factors)],
        **others,
    }
    return {"rope_parameters": rope, "original_max_position_embeddings": ORIGINAL}


_DYNAMIC = {"rope_theta": 10_000.0, "rope_type": "dynamic", "factor": 4.0}
#: Phi-3 and its kin compute a sequence again that grows beyond; others leave older keys as they
#: are. PhiMoE changes the scale of the embedding, too.
ROTATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "phi3": ("phi3", _long(8)),
    "a part of each head": ("phi3", _long(6, partial_rotary_factor=0.75)),
    "phimoe": ("phimoe", _long(8, short_mscale=1.1, long_mscale=1.3)),
    "longrope": ("llama", _long(8)),
    "dynamic": ("llama", {"rope_parameters": _DYNAMIC, "max_position_embeddings": ORIGINAL}),
}
