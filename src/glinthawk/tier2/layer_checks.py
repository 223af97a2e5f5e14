"""Whether a session that is asked for can be."""

from math import inf, isfinite

from glinthawk.core.errors import WireError
from glinthawk.core.spec import DTYPE_BYTES, KV_DTYPES, AttentionLayer
from glinthawk.wire.messages import Open

__all__ = ["check_layers"]

_LARGEST_DIM = 65_536
#: Elements of one token's q, k, v and o in one layer; the largest models have some 100,000.
_LARGEST_ROW = 1 << 24
_LARGEST_WINDOW = 2**31 - 1


def check_layers(request: Open) -> None:
    """Raise WireError for layers over which nothing can be attended."""
    if request.wire_dtype not in DTYPE_BYTES or request.kv_dtype not in KV_DTYPES:
        raise WireError(f"dtypes are {', '.join(DTYPE_BYTES)}, for KV also int8")
    if not request.layers:
        raise WireError("a model has at least one attention layer")
    for layer in request.layers:
        _check_layer(layer)
    if request.views and request.fetches:
        raise WireError("a part of the tokens is attended here, not fetched")
    if request.views:
        _check_views(request)


def _check_views(request: Open) -> None:
    num_layers = len(request.layers)
    if len(request.views) != num_layers or not all(0 <= v < num_layers for v in request.views):
        raise WireError("each layer has a view, by a number from 0")
    if any(layer.window is not None or layer.sinks is not None for layer in request.layers):
        raise WireError("a part of the tokens knows neither windows nor sinks")


def _check_layer(layer: AttentionLayer) -> None:
    sizes = (layer.num_heads, layer.num_kv_heads, layer.head_dim, layer.value_dim)
    if not all(0 < size <= _LARGEST_DIM for size in sizes) or layer.wire_elements > _LARGEST_ROW:
        raise WireError(f"a layer has a size out of range: {sizes}")
    if layer.num_heads % layer.num_kv_heads:
        raise WireError("query heads must be a multiple of KV heads")
    if layer.sinks is not None and len(layer.sinks) != layer.num_heads:
        raise WireError("sinks are one number a query head")
    if layer.window is not None and not 1 <= layer.window <= _LARGEST_WINDOW:
        raise WireError(f"a window holds 1 to {_LARGEST_WINDOW} tokens, the query's own included")
    if not isfinite(layer.scaling) or not 0 < (layer.softcap or 1.0) < inf or layer.softcap == 0:
        raise WireError("scaling and softcap must be finite numbers, softcap above 0")
