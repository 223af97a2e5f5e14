"""The numbers of an architecture that placement, wire and benchmarks must agree on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.errors import UsageError
from glinthawk.core.rope import LengthRope

__all__ = [
    "DTYPE_BYTES",
    "KV_DTYPES",
    "AttentionLayer",
    "ModelSpec",
    "kv_bytes_per_token",
    "page_bytes",
    "share_heads",
]

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
#: How keys and values may be kept; int8 has a scale of its own for each token and KV head.
KV_DTYPES = (*DTYPE_BYTES, "int8")
_INT8_SCALE_BYTES = 4


@dataclass(frozen=True, slots=True)
class AttentionLayer:
    """Everything about one layer's attention but its inputs. Sizes are per token."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    value_dim: int
    scaling: float
    #: How many newest tokens a query sees, itself included; None sees all.
    window: int | None = None
    #: Scores become ``softcap * tanh(score / softcap)``.
    softcap: float | None = None
    #: One logit per query head that joins the softmax without a value.
    sinks: tuple[float, ...] | None = None

    @property
    def kv_elements(self) -> int:
        """Elements of K and V that one token adds."""
        return self.num_kv_heads * (self.head_dim + self.value_dim)

    @property
    def wire_elements(self) -> int:
        """Elements that cross the link for one decoded token: q, k, v out and o back.

        With value_dim = head_dim this is ``(2 + 2/G) * num_heads * head_dim`` (Lamina, section 4).
        """
        return self.num_heads * (self.head_dim + self.value_dim) + self.kv_elements


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model as the rest of the system sees it."""

    name: str
    dtype: str
    vocab_size: int
    max_model_len: int
    layers: tuple[AttentionLayer, ...]
    #: What ``max_model_len`` could be; 0 if that is not known.
    longest_len: int = 0
    #: How queries and keys of sequences are rotated that are longer than the model's first length.
    rope: LengthRope | None = None

    @property
    def plain_len(self) -> int:
        """Longest sequence whose rows are rotated as those of any shorter one."""
        return min(self.max_model_len, self.rope.original) if self.rope else self.max_model_len

    def kv_bytes_per_token(self, kv_dtype: str) -> int:
        """KV cache bytes of one token over all layers."""
        return kv_bytes_per_token(self.layers, kv_dtype)

    @property
    def wire_bytes_per_token(self) -> int:
        """Fewest bytes that cross the link to decode one token, over all layers."""
        return DTYPE_BYTES[self.dtype] * sum(layer.wire_elements for layer in self.layers)


def kv_bytes_per_token(layers: Sequence[AttentionLayer], kv_dtype: str) -> int:
    """KV cache bytes of one token over ``layers``."""
    if kv_dtype == "int8":
        return sum(layer.kv_elements + _INT8_SCALE_BYTES * layer.num_kv_heads for layer in layers)
    return DTYPE_BYTES[kv_dtype] * sum(layer.kv_elements for layer in layers)


def page_bytes(layers: Sequence[AttentionLayer], kv_dtype: str) -> int:
    """Bytes of one page of KV over ``layers``."""
    return PAGE_TOKENS * kv_bytes_per_token(layers, kv_dtype)


def share_heads(
    layers: Sequence[AttentionLayer], part: int, num_parts: int
) -> tuple[AttentionLayer, ...]:
    """``layers`` with one of ``num_parts`` equal runs of their KV heads, and the query heads that
    meet those. Raises UsageError when the KV heads do not divide.

    >>> # 8 query heads on 2 KV heads: part 1 of 2 has query heads 4 to 7 and KV head 1
    """
    return tuple(_share_layer(layer, part, num_parts) for layer in layers)


def _share_layer(layer: AttentionLayer, part: int, num_parts: int) -> AttentionLayer:
    if layer.num_kv_heads % num_parts:
        raise UsageError(
            f"{num_parts} workers cannot share {layer.num_kv_heads} KV heads equally: give --tier2 "
            "a number of workers that divides the KV heads, or use --split-attention tokens"
        )
    num_heads = layer.num_heads // num_parts
    return replace(
        layer,
        num_heads=num_heads,
        num_kv_heads=layer.num_kv_heads // num_parts,
        sinks=layer.sinks and layer.sinks[part * num_heads : (part + 1) * num_heads],
    )
