"""The self-check at load: the cut model answers as the model's own forward does, or is refused."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from glinthawk.core.batch import Batch, Span
from glinthawk.core.errors import GlinthawkError, UnsupportedModel
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request, Sequence
from glinthawk.core.spec import ModelSpec
from glinthawk.tier1.cut import IMPLEMENTATION, Passes, forward_inputs
from glinthawk.tier1.homes import Home
from glinthawk.tier1.node import Node
from glinthawk.tier1.prompts import PromptAttention, attend_prompts

__all__ = ["Truth", "check_cut", "own_answers"]

#: Ragged, and longer than tiny windows.
_LENGTHS = (5, 12, 23)
_NUM_DECODES = 2
_NUM_SHAKES = 2
#: Largest accepted distance of centred logits, relative to their norm, in a model that is robust.
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.08, torch.float16: 0.02}
#: Some models answer a change in the last bit of their input with much more. They are measured, and
#: may differ by a few times as much, but not by what a wrong mask would make of them.
_TIMES_NOISE, _LARGEST = 4, 0.5


@dataclass(frozen=True, slots=True)
class Truth:
    """What the unchanged model says to a few ragged sequences: logits (1 + decodes, V) of each."""

    rows: list[list[int]]
    logits: list[torch.Tensor]
    #: How far rounding alone may move each of them.
    tolerances: list[float]


@torch.inference_mode()
def own_answers(model: PreTrainedModel, spec: ModelSpec) -> Truth:
    """The model's own, unchanged eager forward on each whole sequence."""
    generator = torch.Generator().manual_seed(0)
    lengths = [min(length, spec.max_model_len - 1) for length in _LENGTHS]
    rows = [torch.randint(spec.vocab_size, (n,), generator=generator).tolist() for n in lengths]
    logits = [_own_logits(model, tokens) for tokens in rows]
    pairs = zip(rows, logits, strict=True)
    return Truth(rows, logits, [_tolerance(model, tokens, own) for tokens, own in pairs])


@torch.inference_mode()
def check_cut(
    model: PreTrainedModel,
    spec: ModelSpec,
    home: Home,
    truth: Truth,
    attend_prompts: PromptAttention = attend_prompts,
    passes: Passes | None = None,
) -> None:
    """Prefill the sequences' beginnings together, decode two steps, compare all logits with the
    truth. Raises UnsupportedModel when they differ."""
    try:
        cut = _cut_logits(model, spec, home, truth.rows, attend_prompts, passes)
    except GlinthawkError:
        raise
    except Exception as error:
        raise UnsupportedModel(f"its forward fails on flattened sequences: {error}") from error
    for ours, own, tolerance in zip(cut, truth.logits, truth.tolerances, strict=True):
        distance = _distance(ours, own)
        if not distance <= tolerance:
            raise UnsupportedModel(
                f"its logits, cut at attention, differ from its own forward by {distance:.2g} "
                f"(at most {tolerance:.2g} would be rounding)"
            )


def _tolerance(model: PreTrainedModel, tokens: list[int], own: torch.Tensor) -> float:
    """Runs again with the embeddings' last bits changed, where those are few."""
    least = _TOLERANCE[own.dtype]
    if own.dtype == torch.float32:
        return least
    noise = [_distance(_shaken_logits(model, tokens, seed), own) for seed in range(_NUM_SHAKES)]
    return min(max(least, _TIMES_NOISE * max(noise)), _LARGEST)


def _shaken_logits(model: PreTrainedModel, tokens: list[int], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)

    def shake(_module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        last_bit = torch.finfo(output.dtype).eps
        signs = torch.randint(0, 2, output.shape, generator=generator) * 2 - 1
        return output * (1 + last_bit * signs).to(output)

    hook = model.get_input_embeddings().register_forward_hook(shake)
    try:
        return _own_logits(model, tokens)
    finally:
        hook.remove()


def _cut_logits(
    model: PreTrainedModel,
    spec: ModelSpec,
    home: Home,
    rows: list[list[int]],
    attention: PromptAttention,
    passes: Passes | None,
) -> list[torch.Tensor]:
    """(1 + decodes, V) logits of every row, by way of the cut."""
    collected: list[torch.Tensor] = []

    def collect(_batch: Batch, logits: torch.Tensor) -> None:
        collected.append(logits.clone())

    node = Node(model, spec.layers, [home], collect, attend_prompts=attention, passes=passes)
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


def _distance(ours: torch.Tensor, own: torch.Tensor) -> float:
    """Of centred logits, relative to their norm."""
    ours, own = (logits.float() - logits.float().mean(-1, keepdim=True) for logits in (ours, own))
    return float((ours - own).norm() / own.norm().clamp(min=1e-12))
