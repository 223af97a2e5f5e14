"""The self-check at load: the cut model answers as the model's own forward does, or is refused."""

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from glinthawk.core.batch import Batch, Span
from glinthawk.core.errors import GlinthawkError, UnsupportedModel
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request, Sequence
from glinthawk.core.slices import LayerSlice
from glinthawk.core.spec import ModelSpec
from glinthawk.tier1.forward.closeness import distance
from glinthawk.tier1.forward.cut import IMPLEMENTATION, Call, Pass, Passes, make_hidden
from glinthawk.tier1.forward.prompt_attention import PromptAttention, attend_prompts
from glinthawk.tier1.kv.home import Home
from glinthawk.tier1.node import Node

__all__ = [
    "Truth",
    "check_cut",
    "last_rows",
    "make_sequence",
    "own_answers",
    "received_rows",
]

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
    """What the unchanged model says to a few ragged sequences: logits (1 + decodes, V) of each.

    For ``logits`` read hidden states on a pipeline slice that is not the last.
    """

    rows: list[list[int]]
    #: What each of them brings from the slice before (tokens, hidden).
    received: list[torch.Tensor | None]
    logits: list[torch.Tensor]
    #: How far rounding alone may move each of them.
    tolerances: list[float]


@torch.inference_mode()
def own_answers(model: PreTrainedModel, spec: ModelSpec, part: LayerSlice) -> Truth:
    """The model's own, unchanged eager forward on each whole sequence, through ``part`` of it.

    A slice that is not the first receives random hidden states.
    """
    generator = torch.Generator().manual_seed(0)
    lengths = [min(length, spec.plain_len - 1) for length in _LENGTHS]
    rows = [torch.randint(spec.vocab_size, (n,), generator=generator).tolist() for n in lengths]
    received = [None if part.is_first else make_hidden(model, n, seed=n) for n in lengths]
    logits = [_own_logits(model, *pair) for pair in zip(rows, received, strict=True)]
    if not part.is_first and not all(own.isfinite().all() for own in logits):
        raise UnsupportedModel("later layers look at more than the hidden state before them")
    triples = zip(rows, received, logits, strict=True)
    return Truth(rows, received, logits, [_tolerance(model, *triple) for triple in triples])


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
        cut = _cut_logits(model, spec, home, truth, attend_prompts, passes)
    except GlinthawkError:
        raise
    except Exception as error:
        raise UnsupportedModel(f"its forward fails on flattened sequences: {error}") from error
    for ours, own, tolerance in zip(cut, truth.logits, truth.tolerances, strict=True):
        found = _distance(ours, own)
        if not found <= tolerance:
            raise UnsupportedModel(
                f"its logits, cut at attention, differ from its own forward by {found:.2g} "
                f"(at most {tolerance:.2g} would be rounding)"
            )


def _tolerance(
    model: PreTrainedModel, tokens: list[int], received: torch.Tensor | None, own: torch.Tensor
) -> float:
    """Runs again with the embeddings' last bits changed, where those are few."""
    least = _TOLERANCE[own.dtype]
    if own.dtype == torch.float32:
        return least
    shaken = [_shaken_logits(model, tokens, received, seed) for seed in range(_NUM_SHAKES)]
    noise = max(_distance(logits, own) for logits in shaken)
    return min(max(least, _TIMES_NOISE * noise), _LARGEST)


def _shaken_logits(
    model: PreTrainedModel, tokens: list[int], received: torch.Tensor | None, seed: int
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if received is not None:
        return _own_logits(model, tokens, _shake(received, generator))
    hook = model.get_input_embeddings().register_forward_hook(
        lambda _module, _inputs, output: _shake(output, generator)
    )
    try:
        return _own_logits(model, tokens, None)
    finally:
        hook.remove()


def _shake(hidden: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    last_bit = torch.finfo(hidden.dtype).eps
    signs = torch.randint(0, 2, hidden.shape, generator=generator) * 2 - 1
    return hidden * (1 + last_bit * signs).to(hidden)


def _cut_logits(
    model: PreTrainedModel,
    spec: ModelSpec,
    home: Home,
    truth: Truth,
    attention: PromptAttention,
    passes: Passes | None,
) -> list[torch.Tensor]:
    """(1 + decodes, V) logits of every row, by way of the cut."""
    collected: list[torch.Tensor] = []

    def collect(batch: Batch, logits: torch.Tensor, _: torch.Tensor | None) -> None:
        collected.append(last_rows(batch, logits))

    node = Node(model, spec.layers, [home], collect, attend_prompts=attention, passes=passes)
    sequences = [
        make_sequence(number, tokens[:-_NUM_DECODES], _NUM_DECODES + 1)
        for number, tokens in enumerate(truth.rows)
    ]
    for step in range(_NUM_DECODES + 1):
        batch = _batch(step, sequences, home.id)
        node.start(batch, received_rows(batch, truth.received))
        node.poll()
        for sequence, tokens in zip(sequences, truth.rows, strict=True):
            if step < _NUM_DECODES:
                sequence.output.append(tokens[sequence.length])
    home.release([sequence.id for sequence in sequences])
    return list(torch.stack(collected, dim=1))


def make_sequence(number: int, tokens: list[int], max_tokens: int) -> Sequence:
    """A greedy one that begins with ``tokens``."""
    params = SamplingParams(temperature=0)
    return Sequence(Request(number, tuple(tokens), params, seed=0, max_tokens=max_tokens))


def last_rows(batch: Batch, result: torch.Tensor) -> torch.Tensor:
    """A copy of the last row of every span, of what a pass ended with: those, or all rows."""
    last = torch.tensor([span.length for span in batch.spans]).cumsum(0) - 1
    return result.clone() if len(result) == len(last) else result[last.to(result.device)]


def _batch(step: int, sequences: list[Sequence], home: int) -> Batch:
    if step == 0:
        return Batch(step, (), tuple(Span(s, home, 0, s.length) for s in sequences))
    return Batch(step, tuple(Span(s, home, s.length - 1, 1) for s in sequences), ())


def received_rows(batch: Batch, received: SequenceOf[torch.Tensor | None]) -> torch.Tensor | None:
    """The hidden state of the batch's rows: ``received`` has that of sequence i at place i."""
    parts = [
        hidden[span.start : span.start + span.length]
        for span in batch.spans
        if (hidden := received[span.sequence.id]) is not None
    ]
    return torch.cat(parts) if parts else None


def _own_logits(
    model: PreTrainedModel, tokens: list[int], received: torch.Tensor | None
) -> torch.Tensor:
    """The last 1 + decodes rows of the model's own, unchanged forward on one sequence."""
    config = model.config.get_text_config()
    config._attn_implementation = "eager"
    try:
        ids = torch.tensor(tokens, device=model.device)
        keep = torch.arange(len(tokens) - _NUM_DECODES - 1, len(tokens), device=model.device)
        positions = torch.arange(len(tokens), device=model.device)
        logits = Pass(model, ids, positions, keep, received).resume(None)
    finally:
        config._attn_implementation = IMPLEMENTATION
    assert not isinstance(logits, Call)
    return logits[-_NUM_DECODES - 1 :]


def _distance(ours: torch.Tensor, own: torch.Tensor) -> float:
    """Of centred logits."""
    ours, own = (logits.float() - logits.float().mean(-1, keepdim=True) for logits in (ours, own))
    return float(distance(ours, own))
