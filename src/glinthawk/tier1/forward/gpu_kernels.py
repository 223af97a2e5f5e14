"""Norms, rotary embeddings and gates by Triton, on a GPU: one launch each."""

import torch
import triton

from glinthawk.tier1.forward.gpu_programs import gate_program, norm_program, rotate_program

__all__ = ["TritonKernels"]

#: Numbers of rows that one program takes together, at least one row.
_TOGETHER = 2048
_HEADS = 8
_BLOCK = 1024


class TritonKernels:
    """Kernels on the current stream."""

    head_step = 2

    def rms_norm(self, x: torch.Tensor, factor: torch.Tensor, epsilon: float) -> torch.Tensor:
        size = x.shape[-1]
        rows = x.reshape(-1, x.shape[-2] if x.dim() > 2 else 1, size)
        if rows.stride(2) != 1:
            rows = rows.contiguous()
        outer, inner, _ = rows.shape
        output = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        padded = triton.next_power_of_2(size)
        together = max(1, _TOGETHER // padded)
        norm_program[(triton.cdiv(outer * inner, together),)](
            output,
            rows,
            factor,
            rows.stride(0),
            rows.stride(1),
            outer * inner,
            inner,
            size,
            epsilon,
            ROWS=together,
            SIZE_PADDED=padded,
        )
        return output

    def rotate(
        self, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        q_rows, k_rows = (_packed_heads(heads) for heads in (q, k))
        cos, sin = cos.contiguous(), sin.contiguous()
        num_tokens, num_heads, size = q_rows.shape
        num_kv_heads = k_rows.shape[1]
        outputs = [
            torch.empty(rows.shape, dtype=q.dtype, device=q.device) for rows in (q_rows, k_rows)
        ]
        rotate_program[(num_tokens, triton.cdiv(num_heads + num_kv_heads, _HEADS))](
            *outputs,
            q_rows,
            k_rows,
            cos,
            sin,
            *q_rows.stride()[:2],
            *k_rows.stride()[:2],
            H=num_heads,
            K=num_kv_heads,
            D=size,
            HALF_PADDED=triton.next_power_of_2(size // 2),
            HEADS=_HEADS,
        )
        rotated_q, rotated_k = (rows.transpose(0, 1).unsqueeze(0) for rows in outputs)
        return rotated_q, rotated_k

    def gate(self, joined: torch.Tensor, activation: str) -> torch.Tensor:
        """(..., 2 * size), gate and then up, contiguous -> activation(gate) * up (..., size)."""
        size = joined.shape[-1] // 2
        output = torch.empty((*joined.shape[:-1], size), dtype=joined.dtype, device=joined.device)
        num_rows = joined.numel() // (2 * size)
        gate_program[(num_rows, triton.cdiv(size, _BLOCK))](
            output, joined, size, ACTIVATION=activation, BLOCK=_BLOCK
        )
        return output


def _packed_heads(heads: torch.Tensor) -> torch.Tensor:
    """(1, H, T, D) -> (T, H, D), each head's numbers side by side."""
    rows = heads[0].transpose(0, 1)
    return rows if rows.stride(2) == 1 else rows.contiguous()
