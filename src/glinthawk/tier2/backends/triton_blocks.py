"""What attention over a piece of a sequence is made of, in Triton: rows by blocks of tokens.

Names in capitals are known at compile time; sizes that end in _PADDED are powers of two.
"""

import triton
import triton.language as tl

__all__ = [
    "hide_unseen",
    "load_piece",
    "load_queries",
    "score",
    "soften",
    "store_part",
    "sum_values",
]


@triton.jit
def load_piece(piece):
    """Its first row and how many, the first one's position, the first page, the tokens that it
    walks, and its first part."""
    return (
        tl.load(piece).to(tl.int64),
        tl.load(piece + 1),
        tl.load(piece + 2),
        tl.load(piece + 3),
        tl.load(piece + 4),
        tl.load(piece + 5),
        tl.load(piece + 6).to(tl.int64),
    )


@triton.jit
def load_queries(
    queries,
    row,  # (ROWS,)
    head,
    is_real,
    row_stride,
    head_stride,
    KEY_SIZE: tl.constexpr,
    KEY_PADDED: tl.constexpr,
):
    """(ROWS, KEY_PADDED), zeros where there is none."""
    dims = tl.arange(0, KEY_PADDED)
    return tl.load(
        queries + (row * row_stride + head * head_stride)[:, None] + dims[None, :],
        mask=is_real[:, None] & (dims < KEY_SIZE)[None, :],
        other=0.0,
    )


@triton.jit
def score(
    query,  # (ROWS, KEY_PADDED)
    key_pages,
    key_scales,
    slot,  # (TOKENS,)
    is_held,
    scaling,
    softcap,
    KEY_SIZE: tl.constexpr,
    KEY_PADDED: tl.constexpr,
    SOFTCAP: tl.constexpr,
    INT8: tl.constexpr,
    KEY_DOT: tl.constexpr,
):
    """Of rows with the keys at ``slot``, (ROWS, TOKENS)."""
    dims = tl.arange(0, KEY_PADDED)
    key = tl.load(
        key_pages + slot[:, None] * KEY_SIZE + dims[None, :],
        mask=is_held[:, None] & (dims < KEY_SIZE)[None, :],
        other=0,
    ).to(KEY_DOT)
    scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scaling
    if INT8:
        unit = tl.load(key_scales + slot, mask=is_held, other=0.0).to(tl.float32)
        scores = scores * unit[None, :]
    if SOFTCAP:  # softcap * tanh(scores / softcap)
        scores = softcap * (1 - 2 / (1 + tl.exp(tl.minimum(2 * scores / softcap, 80.0))))
    return scores


@triton.jit
def hide_unseen(scores, token, position, is_there, WINDOW: tl.constexpr):
    """Scores (ROWS, TOKENS), minus infinity where a row sees nothing."""
    is_seen = is_there[None, :] & (token[None, :] <= position[:, None])
    if WINDOW > 0:
        is_seen = is_seen & (token[None, :] > position[:, None] - WINDOW)
    return tl.where(is_seen, scores, float("-inf"))


@triton.jit
def soften(scores, top):
    """Weights of ``scores`` (ROWS, TOKENS) below the new top, what sums below the old ``top`` fade
    by, and the new one."""
    new_top = tl.maximum(top, tl.max(scores, 1))
    shift = tl.where(new_top == float("-inf"), 0.0, new_top)
    return tl.exp(scores - shift[:, None]), tl.exp(top - shift), new_top


@triton.jit
def sum_values(
    weights,  # (ROWS, TOKENS)
    value_pages,
    value_scales,
    slot,  # (TOKENS,)
    is_held,
    VALUE_SIZE: tl.constexpr,
    VALUE_PADDED: tl.constexpr,
    INT8: tl.constexpr,
    VALUE_DOT: tl.constexpr,
):
    """Of the values at ``slot``, by weight, (ROWS, VALUE_PADDED)."""
    dims = tl.arange(0, VALUE_PADDED)
    value = tl.load(
        value_pages + slot[:, None] * VALUE_SIZE + dims[None, :],
        mask=is_held[:, None] & (dims < VALUE_SIZE)[None, :],
        other=0,
    ).to(VALUE_DOT)
    if INT8:
        unit = tl.load(value_scales + slot, mask=is_held, other=0.0).to(tl.float32)
        weights = weights * unit[None, :]
    return tl.dot(weights.to(VALUE_DOT), value, input_precision="ieee")


@triton.jit
def store_part(
    parts,
    part_lses,
    place,  # (ROWS,)
    is_real,
    output,  # (ROWS, VALUE_PADDED), not yet divided
    top,
    total,
    VALUE_SIZE: tl.constexpr,
    VALUE_PADDED: tl.constexpr,
):
    """A piece's rows; one that has seen nothing has a log-sum-exp of minus infinity."""
    dims = tl.arange(0, VALUE_PADDED)
    is_empty = total == 0
    output = output / tl.where(is_empty, 1.0, total)[:, None]
    lse = tl.where(is_empty, float("-inf"), top + tl.log(tl.where(is_empty, 1.0, total)))
    tl.store(part_lses + place, lse, mask=is_real)
    tl.store(
        parts + place[:, None] * VALUE_SIZE + dims[None, :],
        output,
        mask=is_real[:, None] & (dims < VALUE_SIZE)[None, :],
    )
