"""What structured outputs take of a step: of its sampling, and of whole steps of a model."""

import json
import random
import string
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from bench.structured_steps import StepsRow, measure_steps
from glinthawk.bench.timing import medians, seconds
from glinthawk.core.batch import Batch, Span
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request, Sequence
from glinthawk.core.structured_outputs import StructuredOutputsParams
from glinthawk.tier1.sampler import sample_batch
from glinthawk.tier1.sampling.token_masks import TokenMasks
from glinthawk.tokens.grammars import Grammars

__all__ = ["StructuredPlan", "StructuredRow", "run"]

_Write = Callable[[str], None]

_EOS = 0
_SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
_WANTED = {
    "json": StructuredOutputsParams(json=_SCHEMA),
    "regex": StructuredOutputsParams(regex=r"[a-z]+( [a-z0-9]+)*"),
    "choice": StructuredOutputsParams(choice=["positive", "negative", "neutral"]),
}


@dataclass(frozen=True, slots=True)
class StructuredPlan:
    """What is measured; medians of ``rounds`` that alternate."""

    rows: tuple[int, ...] = (64, 256)
    vocabs: tuple[int, ...] = (4096, 131_072)
    rounds: int = 21
    turns: int = 5

    @classmethod
    def quick(cls) -> "StructuredPlan":
        """A look in seconds."""
        return cls(rows=(8,), vocabs=(4096,), rounds=3, turns=1)


@dataclass(frozen=True, slots=True)
class StructuredRow:
    """Steps of ``rows`` answers with one constraint each, all of a kind."""

    kind: str
    vocab: int
    rows: int
    threads: int
    #: From the tokenizer to the first mask, once in a run.
    ready_ms: float
    #: Of a row: its mask is made. This runs beside a pass.
    mask_us: float
    #: Of a step's sampling at temperature 1: with constraints whose masks are there, and without.
    ms: float
    free_ms: float
    #: One softmax over the same rows in float32, and what constraints add as a multiple of that.
    softmax_ms: float
    ratio: float


@torch.inference_mode()
def run(write: _Write, *, quick: bool = False) -> None:
    """Measure, and write lines as they come; the last one is a JSON object."""
    plan = StructuredPlan.quick() if quick else StructuredPlan()
    write("roof: no constraint; what it adds is measured in softmaxes over the same rows")
    write("kind    vocab  rows   ready ms  mask us/row       ms  free ms  softmax ms  added")
    rows, steps = list[StructuredRow](), list[StepsRow]()
    for vocab in plan.vocabs:
        tokenizer = _make_tokenizer(vocab)
        for count in plan.rows:
            rows += [_measure(plan, tokenizer, count, kind, write) for kind in _WANTED]
    write("whole steps, from start to start")
    write("model   vocab  rows       ms  free ms  ratio   cpu ms  free ms  ratio")
    for model in (None, *plan.vocabs):
        for count in plan.rows:
            steps.append(_measure_steps(plan, model, count, write))
    lines = {"rows": [asdict(row) for row in rows], "steps": [asdict(row) for row in steps]}
    write(json.dumps(lines))


def _measure_steps(plan: StructuredPlan, vocab: int | None, rows: int, write: _Write) -> StepsRow:
    """Of the demo model where no size of a vocabulary is given."""
    tokenizer = None if vocab is None else _make_tokenizer(vocab)
    row = measure_steps(rows, _WANTED["json"], plan.turns, tokenizer)
    write(
        f"{row.model:6} {row.vocab:6} {rows:5} {row.ms:8.2f} {row.free_ms:8.2f} {row.ratio:6.3f} "
        f"{row.cpu_ms:8.2f} {row.cpu_free_ms:8.2f} {row.cpu_ratio:6.3f}"
    )
    return row


def _measure(
    plan: StructuredPlan, tokenizer: Any, rows: int, kind: str, write: _Write
) -> StructuredRow:
    vocab, grammars = len(tokenizer), Grammars(tokenizer)
    masks = TokenMasks(lambda: grammars)
    ready = seconds(lambda: masks.allowed([_sequence(0, _WANTED[kind])]))
    logits = torch.randn(rows, vocab, generator=torch.Generator().manual_seed(0))
    bound, free = _Steps(rows, _WANTED[kind]), _Steps(rows, None)
    still = _Steps(rows, _WANTED[kind])
    for _ in range(3):
        still.take(logits, masks)
    mask, whole, without, softmax = medians(
        plan.rounds,
        lambda: masks.allowed(still.sequences),
        lambda: bound.take(logits, masks),
        lambda: free.take(logits, masks),
        lambda: logits.softmax(-1),
    )
    row = StructuredRow(
        kind,
        vocab,
        rows,
        torch.get_num_threads(),
        ready_ms=round(1e3 * ready, 2),
        mask_us=round(1e6 * mask / rows, 2),
        ms=round(1e3 * whole, 3),
        free_ms=round(1e3 * without, 3),
        softmax_ms=round(1e3 * softmax, 3),
        ratio=round((whole - without) / softmax, 2),
    )
    write(
        f"{kind:7} {vocab:5} {rows:5} {row.ready_ms:9.1f} {row.mask_us:12.1f} {row.ms:8.2f} "
        f"{row.free_ms:8.2f} {row.softmax_ms:11.2f} {row.ratio:6.2f}"
    )
    return row


class _Steps:
    """Answers that go on; one that has ended begins again."""

    def __init__(self, rows: int, wanted: StructuredOutputsParams | None) -> None:
        self._wanted = wanted
        self.sequences = [_sequence(row, wanted) for row in range(rows)]

    def take(self, logits: torch.Tensor, masks: TokenMasks) -> None:
        spans = tuple(Span(one, 0, one.length - 1, 1) for one in self.sequences)
        sampled = sample_batch(Batch(0, spans, ()), logits, masks)
        for row, (one,) in enumerate(sampled):
            self.sequences[row].output.append(one.token)
            if one.token == _EOS:
                self.sequences[row] = _sequence(row, self._wanted)


def _sequence(row: int, wanted: StructuredOutputsParams | None) -> Sequence:
    params = SamplingParams(max_tokens=None, structured_outputs=wanted)
    return Sequence(Request(row, (5, row), params, row, 1 << 20, frozenset({_EOS})))


def _make_tokenizer(size: int) -> Any:
    """Bytes, and words as random as they are many; nothing is encoded with it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    draw = random.Random(0)
    pieces = dict.fromkeys(["<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())])
    while len(pieces) < size:
        letters = draw.choices(string.ascii_lowercase, k=draw.randint(2, 9))
        pieces[draw.choice(["", "\u0120"]) + "".join(letters)] = None
    vocab = {piece: token for token, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
