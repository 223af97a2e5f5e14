"""The self-check at load: the cut model answers as the model's own forward does, or is refused."""

import torch
from transformers import PreTrainedModel

from glinthawk.core.batch import Batch, Span
from glinthawk.core.errors import GlinthawkError, UnsupportedModel
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request, Sequence
from glinthawk.core.spec import ModelSpec
from glinthawk.tier1.cut import IMPLEMENTATION, forward_inputs
from glinthawk.tier1.homes import Home
from glinthawk.tier1.node import Node

__all__ = ["check_cut"]

#: Ragged, and longer than tiny windows.
_LENGTHS = (5, 12, 23)
_NUM_DECODES = 2
#: Largest accepted distance of centred logits, relative to their norm.
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.08, torch.float16: 0.02}


@torch.inference_mode()
def check_cut(model: PreTrainedModel, spec: ModelSpec, home: Home) -> None:
    """Prefill three ragged prompts together, decode two steps, compare all logits with the model's
    own eager forward on each whole sequence. Raises UnsupportedModel when they differ."""
    generator = torch.Generator().manual_seed(0)
    lengths = [min(length, spec.max_model_len - 1) for length in _LENGTHS]
    rows = [torch.randint(spec.vocab_size, (n,), generator=generator).tolist() for n in lengths]
    try:
        cut = _cut_logits(model, spec, home, rows)
    except GlinthawkError:
        raise
    except Exception as error:
        raise UnsupportedModel(f"its forward fails on flattened sequences: {error}") from error
    for tokens, ours in zip(rows, cut, strict=True):
        _compare(ours, _own_logits(model, tokens))


def _cut_logits(
    model: PreTrainedModel, spec: ModelSpec, home: Home, rows: list[list[int]]
) -> list[torch.Tensor]:
    """(1 + decodes, V) logits of every row, by way of the cut."""
    collected: list[torch.Tensor] = []
    node = Node(model, spec.layers, [home], lambda _batch, logits: collected.append(logits))
    sequences = [_sequence(number, tokens) for number, tokens in enumerate(rows)]
    for step in range(_NUM_DECODES + 1):
        node.start(_batch(step, sequences, home.id))
        node.poll()
        for sequence, tokens in zip(sequences, rows, strict=True):
            if step < _NUM_DECODES:
                sequence.output.append(tokens[sequence.length])
    home.release([sequence.id for sequence in sequences])
    return list(torch.stack(collected, dim=1))


def _sequence(number: int, tokens: list[int]) -> Sequence:
    prompt = tuple(tokens[:-_NUM_DECODES])
    params = SamplingParams(temperature=0)
    return Sequence(Request(number, prompt, params, seed=0, max_tokens=_NUM_DECODES + 1))


def _batch(step: int, sequences: list[Sequence], home: int) -> Batch:
    if step == 0:
        return Batch(step, (), tuple(Span(s, home, 0, s.length) for s in sequences))
    return Batch(step, tuple(Span(s, home, s.length - 1, 1) for s in sequences), ())


def _own_logits(model: PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    """The last 1 + decodes rows of the model's own, unchanged forward on one sequence."""
    config = model.config.get_text_config()
    config._attn_implementation = "eager"
    try:
        ids = torch.tensor(tokens, device=model.device)
        keep = torch.arange(len(tokens) - _NUM_DECODES - 1, len(tokens), device=model.device)
        inputs = forward_inputs(model, ids, torch.arange(len(tokens), device=model.device), keep)
        logits: torch.Tensor = model(**inputs).logits[0]
    finally:
        config._attn_implementation = IMPLEMENTATION
    return logits[-_NUM_DECODES - 1 :]


def _compare(ours: torch.Tensor, own: torch.Tensor) -> None:
    tolerance = _TOLERANCE[own.dtype]
    ours, own = (logits.float() - logits.float().mean(-1, keepdim=True) for logits in (ours, own))
    distance = float((ours - own).norm() / own.norm().clamp(min=1e-12))
    if not distance <= tolerance:
        raise UnsupportedModel(
            f"its logits, cut at attention, differ from its own forward by {distance:.2g} "
            f"(at most {tolerance:g} would be rounding)"
        )
