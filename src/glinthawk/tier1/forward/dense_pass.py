"""Tier 1's own part of a step, measured: a pass in which attention costs nothing."""

import time
from collections.abc import Sequence
from functools import partial

import torch
from transformers import PreTrainedModel

from glinthawk.core.spec import AttentionLayer
from glinthawk.tier1.forward.cut import Call, Pass, Passes, make_hidden

__all__ = ["DensePass"]


class DensePass:
    """A step of ``num_rows`` rows through all layers, with the logits of every row (or of the first
    ``num_logits``), which are valid until the next one. ``passes`` makes its pass; None: as
    transformers runs it.

    A pipeline slice that is not the first ``receives`` a hidden state.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        layers: Sequence[AttentionLayer],
        num_rows: int,
        passes: Passes | None = None,
        receives: bool = False,
        num_logits: int | None = None,
    ) -> None:
        self._model = model
        self._passes = passes or partial(Pass, model)
        vocab_size = model.config.get_text_config().vocab_size
        self._ids = torch.arange(num_rows, device=model.device) % vocab_size
        self._outputs = [
            torch.zeros(
                num_rows, layer.num_heads, layer.value_dim, dtype=model.dtype, device=model.device
            )
            for layer in layers
        ]
        self._keep = torch.arange(num_logits or num_rows, device=model.device)
        self._hidden = make_hidden(model, num_rows) if receives else None

    @torch.inference_mode()
    def __call__(self) -> torch.Tensor:
        # There may be more rows than the model has positions; all stand at the first.
        positions = torch.zeros_like(self._ids)
        forward = self._passes(self._ids, positions, self._keep, self._hidden)
        result = forward.resume(None)
        while isinstance(result, Call):
            result = forward.resume(self._outputs[forward.depth])
        forward.close()
        return result

    def seconds(self) -> float:
        """Wall time of one step, the device's work included."""
        begun = time.perf_counter()
        self()
        if self._model.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begun
