"""Which LoRA adapters the rows of a pass have."""

import torch

__all__ = ["RowAdapters"]


class RowAdapters:
    """``numbers`` (T,) of the adapters of a pass's rows; 0 is none."""

    def __init__(self, numbers: torch.Tensor) -> None:
        self._numbers = numbers.unsqueeze(-1)
        #: By the owners that were asked for, most of which are one tensor in all layers.
        self._foreign: dict[int, torch.Tensor] = {}

    def foreign(self, owners: torch.Tensor) -> torch.Tensor:
        """(T, S): whether the adapter in ``owners`` (S,) is another one than the row's."""
        key = id(owners)
        if key not in self._foreign:
            self._foreign[key] = self._numbers != owners
        return self._foreign[key]
