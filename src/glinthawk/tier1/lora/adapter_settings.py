"""What an adapter's adapter_config.json says, or why it cannot be applied."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glinthawk.core.errors import ModelError
from glinthawk.core.lora import SETTINGS

__all__ = ["AdapterSettings"]

#: Settings of PEFT's with which an adapter is more than two matrices beside a layer, or other ones.
_REFUSED = {
    "use_dora": "DoRA",
    "modules_to_save": "modules_to_save, whole modules of its own,",
    "lora_bias": "lora_bias",
    "trainable_token_indices": "embeddings of its own (trainable_token_indices)",
    "target_parameters": "adapters of experts (target_parameters)",
    "layer_replication": "layer_replication",
    "alora_invocation_tokens": "activated LoRA (alora_invocation_tokens)",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA (use_bdlora)",
    "arrow_config": "Arrow routing (arrow_config)",
}
#: Beginnings that take something out of the model's own weights.
_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True, slots=True)
class AdapterSettings:
    """Ranks and scalings of LoRA, by the names of modules as PEFT has them."""

    folder: Path
    rank: int
    alpha: float
    #: Of some modules: regular expressions that their names end with.
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    #: Rank-stabilised: the scaling is alpha over the root of the rank.
    is_stabilised: bool

    @classmethod
    def load(cls, folder: Path) -> "AdapterSettings":
        """Raises ModelError for an adapter that cannot be applied."""
        try:
            said = json.loads((folder / SETTINGS).read_text())
            _check(folder, said)
            return cls(
                folder,
                int(said.get("r", 8)),
                float(said.get("lora_alpha", 8)),
                dict(said.get("rank_pattern") or {}),
                dict(said.get("alpha_pattern") or {}),
                bool(said.get("use_rslora")),
            )
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ModelError(f"cannot read {folder / SETTINGS}: {error}; save it again") from error

    def rank_of(self, module: str) -> int:
        """Rows of its first matrix."""
        return int(_find(self.ranks, module, self.rank))

    def scaling_of(self, module: str) -> float:
        """By which the product of its matrices is multiplied (LoRA, section 4.1; rsLoRA,
        section 3)."""
        rank, alpha = self.rank_of(module), float(_find(self.alphas, module, self.alpha))
        return alpha / (math.sqrt(rank) if self.is_stabilised else rank)


def _find(patterns: Mapping[str, Any], module: str, otherwise: Any) -> Any:
    """Of the first pattern that stands for ``module`` or a whole end of it."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return otherwise


def _check(folder: Path, said: Mapping[str, Any]) -> None:
    kind = said.get("peft_type")
    if kind != "LORA":
        raise ModelError(f"{folder} is an adapter of the kind {kind}, not LORA; merge it instead")
    found = [words for name, words in _REFUSED.items() if said.get(name)]
    if (bias := said.get("bias", "none")) != "none":
        found.append(f"biases of its own (bias is {bias})")
    begun = said.get("init_lora_weights")
    if isinstance(begun, str) and begun.startswith(_CHANGING):
        found.append(f"changed weights of the model (init_lora_weights is {begun})")
    if found:
        raise ModelError(
            f"{folder} has {found[0]} which is not applied here; merge it into the model with "
            "PEFT's merge_and_unload, and give that model"
        )
