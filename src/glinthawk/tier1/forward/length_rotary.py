"""Rotary embeddings that change with a sequence's length, for rows of many sequences.

transformers' module looks at the largest position that it is given, and takes that for the length
of all. Here every row brings its own length (``core/rope.py``). The angles still come from the
module's own code.
"""

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from glinthawk.tier1.forward.closeness import is_close
from glinthawk.tier1.forward.cut import running_lengths

__all__ = ["follow_lengths", "follows_lengths"]

#: (x, positions (1, T), lengths (T,)) -> cosines and sines (1, T, D).
_Rotation = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
#: Beyond the original length, where modules are compared.
_SOME = 7


def follow_lengths(model: PreTrainedModel, original: int, longest: int) -> None:
    """Let passes rotate each row by its length, of up to ``longest`` tokens."""
    for module in _find(model):
        rotate = _choose(module, original, longest)
        module.forward = _by_running_lengths(module.forward, rotate)


def follows_lengths(model: PreTrainedModel, original: int) -> bool:
    """Whether rows of unlike lengths, side by side, come to what the model's own modules make of
    each length alone."""
    modules = _find(model)
    try:
        return bool(modules) and all(_agrees(module, original) for module in modules)
    except Exception:  # it takes or gives something else: not ours to replace
        return False


def _find(model: PreTrainedModel) -> list[nn.Module]:
    return [
        module
        for module in model.modules()
        if isinstance(kind := getattr(module, "rope_type", None), str) and kind in _KINDS
    ]


def _choose(module: nn.Module, original: int, longest: int) -> _Rotation:
    return _KINDS[str(module.rope_type)](module, original, longest).rotate


def _by_running_lengths(own: Callable[..., Any], rotate: _Rotation) -> Callable[..., Any]:
    def forward(x: torch.Tensor, position_ids: torch.Tensor) -> Any:
        lengths = running_lengths()
        return own(x, position_ids) if lengths is None else rotate(x, position_ids, lengths)

    return forward


def _agrees(module: nn.Module, original: int) -> bool:
    """On the beginning, the middle and the end of sequences around the original length."""
    device = next(module.buffers()).device
    x = torch.zeros(1, 1, 1, device=device)
    sizes = (original - 1, original, original + 1, original + _SOME)
    places = [torch.tensor([[0, n // 2, n - 1]], device=device) for n in sizes]
    lengths = torch.tensor(sizes, device=device).repeat_interleave(3)
    rotate = _choose(copy.deepcopy(module), original, original + _SOME)
    ours = rotate(x, torch.cat(places, dim=1), lengths)
    alone = [copy.deepcopy(module)(x, rows) for rows in places]
    return all(
        is_close(mine, torch.cat(theirs, dim=1))
        for mine, theirs in zip(ours, zip(*alone, strict=True), strict=True)
    )


class _LongRope:
    """Of two sets of frequencies, one for sequences beyond the original length. The module is
    asked for both, by positions that leave it no choice."""

    def __init__(self, module: nn.Module, original: int, longest: int) -> None:
        self._own, self._original = module.forward, original

    def rotate(
        self, x: torch.Tensor, positions: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        beyond = positions.new_full((1, 1), self._original)
        far = self._own(x, torch.cat([positions, beyond], dim=1))
        near = self._own(x, positions.clamp(max=self._original - 1))
        is_long = (lengths > self._original).unsqueeze(-1)
        cos, sin = (
            torch.where(is_long, angles[:, :-1], short)
            for angles, short in zip(far, near, strict=True)
        )
        return cos, sin


class _DynamicRope:
    """Of one set of frequencies for each length beyond the original one (NTK-aware scaling). All
    are kept, so that a row's bits do not depend on which lengths are computed beside it."""

    def __init__(self, module: nn.Module, original: int, longest: int) -> None:
        self._module, self._original = module, original
        self._plain = inspect.unwrap(type(module).forward)
        first = module.original_inv_freq
        assert isinstance(first, torch.Tensor)
        lengths = torch.arange(original + 1, longest + 1, device=first.device).unsqueeze(-1)
        others, _ = ROPE_INIT_FUNCTIONS["dynamic"](module.config, first.device, seq_len=lengths)
        #: (lengths from the original one on, D / 2).
        self._frequencies = torch.cat([first.unsqueeze(0), others])

    def rotate(
        self, x: torch.Tensor, positions: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        own = self._module.inv_freq
        self._module.inv_freq = self._frequencies[(lengths - self._original).clamp(min=0)]
        try:
            cos, sin = self._plain(self._module, x, positions)
        finally:
            self._module.inv_freq = own
        return cos, sin


_KINDS: dict[str, type[_LongRope | _DynamicRope]] = {"longrope": _LongRope, "dynamic": _DynamicRope}
