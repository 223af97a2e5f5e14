"""How much each input of each linear layer matters, by what a model makes of a text."""

from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig

from glinthawk.tier1.model.heads import auto_class

__all__ = ["measure_importance"]


@torch.inference_mode()
def measure_importance(
    source: str, windows: Iterable[tuple[int, ...]], trust: bool = False
) -> dict[str, torch.Tensor]:
    """The mean square of every input (K,) of every linear layer, by the layers' names, over all
    tokens of ``windows``. An error of a weight costs as much as its input is large: what AWQ
    (arXiv 2306.00978) found of activations."""
    settings = AutoConfig.from_pretrained(source, trust_remote_code=trust)
    model: Any = auto_class(settings).from_pretrained(source, trust_remote_code=trust)
    sums: dict[str, torch.Tensor] = {}
    counts: defaultdict[str, int] = defaultdict(int)

    def note(name: str, _: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        rows = given[0].detach().float().flatten(0, -2)
        sums[name] = sums.get(name, 0) + rows.square().sum(0)
        counts[name] += len(rows)

    for name, module in model.named_modules():
        if type(module) is nn.Linear:
            module.register_forward_pre_hook(partial(note, name))
    for window in windows:
        model(torch.tensor([window]), use_cache=False)
    return {name: total / counts[name] for name, total in sums.items()}
