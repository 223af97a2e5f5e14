"""Triton programs for what stands between the products of a layer.

Names in capitals are known at compile time; sizes that end in _PADDED are powers of two. All
compute in float32.
"""

import triton
import triton.language as tl

__all__ = ["gate_program", "norm_program", "rotate_program"]


@triton.jit
def norm_program(
    output,  # (outer * inner, size)
    x,
    factor,  # (size,)
    outer_stride,
    inner_stride,
    num_rows,
    inner,
    size,
    epsilon,
    ROWS: tl.constexpr,
    SIZE_PADDED: tl.constexpr,
):
    """ROWS rows a program."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, SIZE_PADDED)
    seen = (rows < num_rows)[:, None] & (columns < size)[None, :]
    begin = (rows // inner) * outer_stride + (rows % inner) * inner_stride
    values = tl.load(x + begin[:, None] + columns[None, :], mask=seen, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(values * values, 1) / size + epsilon)
    weight = tl.load(factor + columns, mask=columns < size, other=0.0)
    normed = values * scale[:, None] * weight[None, :]
    places = rows[:, None] * size + columns[None, :]
    tl.store(output + places, normed.to(output.dtype.element_ty), mask=seen)


@triton.jit
def rotate_program(
    q_output,  # (T, H, D)
    k_output,  # (T, K, D)
    q,
    k,
    cos,  # (T, D)
    sin,
    q_row_stride,
    q_head_stride,
    k_row_stride,
    k_head_stride,
    H: tl.constexpr,
    K: tl.constexpr,
    D: tl.constexpr,
    HALF_PADDED: tl.constexpr,
    HEADS: tl.constexpr,
):
    """HEADS heads of one token a program, those of q first; grid (T, ceil((H + K) / HEADS))."""
    token = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    half: tl.constexpr = D // 2
    first = tl.arange(0, HALF_PADDED)
    seen = first < half
    angles = token * D + first
    cos1 = tl.load(cos + angles, mask=seen, other=0.0).to(tl.float32)[None, :]
    cos2 = tl.load(cos + angles + half, mask=seen, other=0.0).to(tl.float32)[None, :]
    sin1 = tl.load(sin + angles, mask=seen, other=0.0).to(tl.float32)[None, :]
    sin2 = tl.load(sin + angles + half, mask=seen, other=0.0).to(tl.float32)[None, :]

    in_q = (heads < H)[:, None] & seen[None, :]
    in_k = ((heads >= H) & (heads < H + K))[:, None] & seen[None, :]
    key_heads = heads - H
    q_begin = q + token * q_row_stride + heads[:, None] * q_head_stride + first[None, :]
    k_begin = k + token * k_row_stride + key_heads[:, None] * k_head_stride + first[None, :]
    x1 = tl.load(q_begin, mask=in_q, other=0.0).to(tl.float32)
    x1 += tl.load(k_begin, mask=in_k, other=0.0).to(tl.float32)
    x2 = tl.load(q_begin + half, mask=in_q, other=0.0).to(tl.float32)
    x2 += tl.load(k_begin + half, mask=in_k, other=0.0).to(tl.float32)

    y1 = x1 * cos1 - x2 * sin1
    y2 = x2 * cos2 + x1 * sin2
    q_end = q_output + (token * H + heads[:, None]) * D + first[None, :]
    k_end = k_output + (token * K + key_heads[:, None]) * D + first[None, :]
    kind = q_output.dtype.element_ty
    tl.store(q_end, y1.to(kind), mask=in_q)
    tl.store(q_end + half, y2.to(kind), mask=in_q)
    tl.store(k_end, y1.to(kind), mask=in_k)
    tl.store(k_end + half, y2.to(kind), mask=in_k)


@triton.jit
def gate_program(
    output,  # (T, size)
    x,  # (T, 2 * size): gate, then up
    size,
    ACTIVATION: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """activation(gate) * up; grid (T, ceil(size / BLOCK))."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    seen = columns < size
    begin = x + row * 2 * size + columns
    gate = tl.load(begin, mask=seen, other=0.0).to(tl.float32)
    up = tl.load(begin + size, mask=seen, other=0.0).to(tl.float32)
    product = _activate(gate, ACTIVATION) * up
    tl.store(output + row * size + columns, product.to(output.dtype.element_ty), mask=seen)


@triton.jit
def _activate(x, ACTIVATION: tl.constexpr):
    if ACTIVATION == "silu":
        x = x * _sigmoid(x)
    elif ACTIVATION == "gelu":
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif ACTIVATION == "gelu_tanh":
        # 0.5 (1 + tanh(y)) is sigmoid(2 y).
        x = x * _sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    else:
        x = tl.maximum(x, 0.0)
    return x


@triton.jit
def _sigmoid(x):
    # Below, it is 0 beside anything that it may be a factor of, and exp would overflow.
    return tl.sigmoid(tl.maximum(x, -80.0))
