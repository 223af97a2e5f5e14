"""Triton kernels over KV pages: append rows, attend to chunks of a sequence, merge the chunks.

Pages of one layer are (num_pages, K, page_tokens, D) for keys and the same with Dv for values, so
the tokens of a page under one KV head are one run of memory. int8 pages have a bfloat16 scale for
every token and KV head, (num_pages, K, page_tokens). ``triton_tables`` says what tables hold.

Names in capitals are known at compile time; sizes that end in _PADDED are powers of two.
"""

import triton
import triton.language as tl

from glinthawk.tier2.backends.triton_blocks import (
    hide_unseen,
    load_piece,
    load_queries,
    score,
    soften,
    store_part,
    sum_values,
)

__all__ = ["append_kernel", "attend_kernel", "merge_kernel"]


@triton.jit
def append_kernel(
    keys,  # (T, K, D)
    values,  # (T, K, Dv)
    key_pages,
    value_pages,
    key_scales,
    value_scales,
    slots,  # (T, 2)
    key_row_stride,
    key_head_stride,
    value_row_stride,
    value_head_stride,
    KV_HEADS: tl.constexpr,
    PAGE: tl.constexpr,
    KEY_SIZE: tl.constexpr,
    KEY_PADDED: tl.constexpr,
    VALUE_SIZE: tl.constexpr,
    VALUE_PADDED: tl.constexpr,
    INT8: tl.constexpr,
):
    """One new token under one KV head; grid (T, K)."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    page = tl.load(slots + 2 * row).to(tl.int64)
    slot = (page * KV_HEADS + head) * PAGE + tl.load(slots + 2 * row + 1)
    key = keys + row * key_row_stride + head * key_head_stride
    value = values + row * value_row_stride + head * value_head_stride
    _write(key, key_pages + slot * KEY_SIZE, key_scales + slot, KEY_SIZE, KEY_PADDED, INT8)
    _write(
        value, value_pages + slot * VALUE_SIZE, value_scales + slot, VALUE_SIZE, VALUE_PADDED, INT8
    )


@triton.jit
def _write(source, target, scale, SIZE: tl.constexpr, PADDED: tl.constexpr, INT8: tl.constexpr):
    """A row of SIZE numbers; in int8 as the native backend quantises it."""
    dims = tl.arange(0, PADDED)
    x = tl.load(source + dims, mask=dims < SIZE, other=0.0).to(tl.float32)
    if INT8:
        # The largest lands half a step beyond 127; what is not finite makes the scale NaN.
        unit = (tl.max(tl.abs(x), 0) / 127.5 + tl.sum(0 * x, 0)).to(tl.bfloat16)
        tl.store(scale, unit)
        unit = unit.to(tl.float32)
        x = x * tl.where(unit > 1e-37, 1 / tl.where(unit > 1e-37, unit, 1.0), 0.0)
        x = tl.where(tl.abs(x) < 256, x, 0.0)
        whole = tl.where(x < 0, x - 0.5, x + 0.5).to(tl.int32)  # towards 0
        whole = tl.minimum(tl.maximum(whole, -128), 127)
        tl.store(target + dims, whole.to(tl.int8), mask=dims < SIZE)
    else:
        tl.store(target + dims, x.to(target.dtype.element_ty), mask=dims < SIZE)


@triton.jit
def attend_kernel(
    queries,  # (T, H, D)
    key_pages,
    value_pages,
    key_scales,
    value_scales,
    pages,  # (P,)
    pieces,  # (W, 8)
    parts,  # (N, H, Dv) float32: the outputs of pieces
    part_lses,  # (N, H) float32
    query_row_stride,
    query_head_stride,
    scaling,
    softcap,
    GROUP: tl.constexpr,
    KV_HEADS: tl.constexpr,
    PAGE: tl.constexpr,
    KEY_SIZE: tl.constexpr,
    KEY_PADDED: tl.constexpr,
    VALUE_SIZE: tl.constexpr,
    VALUE_PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    INT8: tl.constexpr,
    KEY_DOT: tl.constexpr,
    VALUE_DOT: tl.constexpr,
):
    """A piece under one KV head; grid (W, K). WINDOW 0 is none.

    All query heads of a few tokens of one span make ROWS rows, which walk tokens [begin, end) of
    their sequence TOKENS at a time with online softmax. A row of which a block holds nothing is not
    changed by it, bit for bit.
    """
    kv_head = tl.program_id(1)
    first_row, num_rows, first_position, first_page, begin, end, part = load_piece(
        pieces + 8 * tl.program_id(0)
    )
    lane = tl.arange(0, ROWS)
    row = lane // GROUP
    head = kv_head * GROUP + lane % GROUP
    is_real = row < num_rows
    position = first_position + row
    query = load_queries(
        queries, first_row + row, head, is_real, query_row_stride, query_head_stride,
        KEY_SIZE, KEY_PADDED,
    ).to(KEY_DOT)  # fmt: skip

    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    output = tl.zeros((ROWS, VALUE_PADDED), tl.float32)
    for start in range(begin // TOKENS * TOKENS, end, TOKENS):
        token = start + tl.arange(0, TOKENS)
        is_held = token < end  # what lies beyond was perhaps never written
        page = tl.load(pages + first_page + token // PAGE, mask=is_held, other=0).to(tl.int64)
        slot = (page * KV_HEADS + kv_head) * PAGE + token % PAGE
        scores = score(
            query, key_pages, key_scales, slot, is_held, scaling, softcap,
            KEY_SIZE, KEY_PADDED, SOFTCAP, INT8, KEY_DOT,
        )  # fmt: skip
        scores = hide_unseen(scores, token, position, is_held & (token >= begin), WINDOW)
        weights, fade, top = soften(scores, top)
        total = total * fade + tl.sum(weights, 1)
        output = output * fade[:, None]
        output += sum_values(
            weights, value_pages, value_scales, slot, is_held,
            VALUE_SIZE, VALUE_PADDED, INT8, VALUE_DOT,
        )  # fmt: skip

    place = (part + row) * (GROUP * KV_HEADS) + head
    store_part(parts, part_lses, place, is_real, output, top, total, VALUE_SIZE, VALUE_PADDED)


@triton.jit
def merge_kernel(
    parts,  # (N, H, Dv)
    part_lses,  # (N, H)
    merges,  # (T, 4)
    sinks,  # (H,)
    output,  # (T, H, Dv)
    lse,  # (T, H)
    GROUP: tl.constexpr,
    GROUP_PADDED: tl.constexpr,
    KV_HEADS: tl.constexpr,
    VALUE_SIZE: tl.constexpr,
    VALUE_PADDED: tl.constexpr,
    SINKS: tl.constexpr,
):
    """A row's parts, weighed by log-sum-exp in order of position; grid (T, K)."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.load(merges + 4 * row).to(tl.int64)
    stride = tl.load(merges + 4 * row + 1)
    count = tl.load(merges + 4 * row + 2)
    member = tl.arange(0, GROUP_PADDED)
    head = tl.program_id(1) * GROUP + member
    is_real = member < GROUP
    value_dims = tl.arange(0, VALUE_PADDED)
    mask = is_real[:, None] & (value_dims < VALUE_SIZE)[None, :]

    if SINKS:
        top = tl.load(sinks + head, mask=is_real, other=0.0)
        total = tl.full((GROUP_PADDED,), 1.0, tl.float32)
    else:
        top = tl.full((GROUP_PADDED,), float("-inf"), tl.float32)
        total = tl.zeros((GROUP_PADDED,), tl.float32)
    merged = tl.zeros((GROUP_PADDED, VALUE_PADDED), tl.float32)
    for _ in range(count):
        place = part * (GROUP * KV_HEADS) + head
        part_lse = tl.load(part_lses + place, mask=is_real, other=0.0)
        new_top = tl.maximum(top, part_lse)
        shift = tl.where(new_top == float("-inf"), 0.0, new_top)
        weight = tl.exp(part_lse - shift)
        fade = tl.exp(top - shift)
        total = total * fade + weight
        values = tl.load(
            parts + place[:, None] * VALUE_SIZE + value_dims[None, :], mask=mask, other=0.0
        )
        merged = merged * fade[:, None] + values * weight[:, None]
        top = new_top
        part += stride

    place = row * (GROUP * KV_HEADS) + head
    tl.store(lse + place, top + tl.log(total), mask=is_real)
    merged = merged / total[:, None]
    tl.store(
        output + place[:, None] * VALUE_SIZE + value_dims[None, :],
        merged.to(output.dtype.element_ty),
        mask=mask,
    )
