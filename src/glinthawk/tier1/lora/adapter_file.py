"""The weights of an adapter: two matrices of each layer that it adapts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from glinthawk.core.errors import ModelError
from glinthawk.core.lora import WEIGHTS
from glinthawk.tier1.lora.adapter_settings import AdapterSettings

__all__ = ["AdapterFile", "AdapterPair"]

_PREFIX = "base_model.model."
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
#: What else PEFT may store, by a part of its name.
_OTHERS = {
    ".experts.": "an adapter of experts",
    "lora_embedding_": "an adapter of embeddings",
    "lora_magnitude_vector": "a part of DoRA",
    "bias": "a bias",
}


class AdapterPair(NamedTuple):
    """What is added to a layer's weight (out, in) is ``up @ down``."""

    down: torch.Tensor  # (r, in), float32
    up: torch.Tensor  # (out, r), float32, scaled


class AdapterFile:
    """An adapter's folder. ``modules`` are the layers that it adapts, by the names that they had in
    training. Raises ModelError for one that cannot be applied."""

    def __init__(self, folder: Path) -> None:
        self._settings, self._path = AdapterSettings.load(folder), folder / WEIGHTS
        with self._open() as file:
            names = set(file.keys())
        for name in sorted(names):
            self._check(name)
        self.modules = sorted({_module(name) for name in names})
        for module in self.modules:
            missing = {f"{_PREFIX}{module}{end}" for end in (_DOWN, _UP)} - names
            if missing:
                raise ModelError(f"{self._path} lacks {missing.pop()}; save the adapter again")

    def read(self, module: str) -> AdapterPair:
        """Raises ModelError for matrices of another rank than the settings say."""
        with self._open() as file:
            down, up = (file.get_tensor(f"{_PREFIX}{module}{end}").float() for end in (_DOWN, _UP))
        rank = self._settings.rank_of(module)
        if down.dim() != 2 or up.dim() != 2 or {len(down), up.shape[1]} != {rank}:
            raise ModelError(
                f"{self._path}: {module} has {tuple(down.shape)} and {tuple(up.shape)} for rank "
                f"{rank}; give the adapter_config.json that belongs to the weights"
            )
        if not (down.isfinite().all() and up.isfinite().all()):
            raise ModelError(f"{self._path}: {module} has numbers that are not finite; train again")
        return AdapterPair(down, up * self._settings.scaling_of(module))

    def _check(self, name: str) -> None:
        is_plain = name.startswith(_PREFIX) and name.endswith((_DOWN, _UP))
        found = [words for part, words in _OTHERS.items() if part in name]
        if found or not is_plain:
            raise ModelError(
                f"{self._path}: {name} is {found[0] if found else 'no matrix of LoRA'}, which is "
                "not applied here; merge the adapter into the model with PEFT's merge_and_unload, "
                "and give that model"
            )

    @contextmanager
    def _open(self) -> Iterator[Any]:
        try:
            with safe_open(self._path, framework="pt") as file:
                yield file
        except (OSError, SafetensorError) as error:
            raise ModelError(f"cannot read {self._path}: {error}; download it again") from error


def _module(name: str) -> str:
    return name.removeprefix(_PREFIX).removesuffix(_DOWN).removesuffix(_UP)
