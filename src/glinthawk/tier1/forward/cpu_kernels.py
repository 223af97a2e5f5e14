"""Norms and rotary embeddings by the C++ extension, on a CPU."""

import torch

from glinthawk import _native
from glinthawk.core.openmp import find_team

__all__ = ["NativeKernels"]


class NativeKernels:
    """Kernels on torch's own threads."""

    head_step = 32

    def rms_norm(self, x: torch.Tensor, factor: torch.Tensor, epsilon: float) -> torch.Tensor:
        x = x.contiguous()
        output, size = torch.empty_like(x), x.shape[-1]
        _native.rms_norm(
            output.data_ptr(),
            x.data_ptr(),
            factor.data_ptr(),
            x.numel() // size,
            size,
            epsilon,
            _name(x),
            torch.get_num_threads(),
            *find_team(),
        )
        return output

    def rotate(
        self, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        cos, sin = cos.contiguous(), sin.contiguous()
        return _rotate_heads(q, cos, sin), _rotate_heads(k, cos, sin)


def _rotate_heads(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    rows = heads[0].transpose(0, 1)  # (T, H, D)
    if rows.stride()[1:] != (rows.shape[2], 1):
        rows = rows.contiguous()
    num_tokens, num_heads, size = rows.shape
    output = torch.empty(rows.shape, dtype=rows.dtype)
    _native.rotate(
        output.data_ptr(),
        rows.data_ptr(),
        rows.stride(0) * rows.element_size(),
        cos.data_ptr(),
        sin.data_ptr(),
        num_tokens,
        num_heads,
        size,
        _name(rows),
        torch.get_num_threads(),
        *find_team(),
    )
    return output.transpose(0, 1).unsqueeze(0)


def _name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
