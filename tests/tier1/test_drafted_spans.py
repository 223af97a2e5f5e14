"""A span with a draft is sampled after as if its rows came one by one."""

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glinthawk.core.batch import Batch, Span
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request, Sequence
from glinthawk.core.structured_outputs import StructuredOutputsParams
from glinthawk.tier1.sampler import Sampled, sample_batch
from glinthawk.tier1.sampling.row_masks import Bits

VOCAB = 6
_EOS = 5

#: Sampling parameters under which nothing before a token matters to it, and ones where it does.
RULES = st.sampled_from(
    [
        SamplingParams(temperature=0, max_tokens=None),
        SamplingParams(temperature=0.8, top_p=0.9, max_tokens=None, logprobs=2),
        SamplingParams(temperature=0, presence_penalty=2.0, max_tokens=None, logprobs=0),
        SamplingParams(temperature=1.1, repetition_penalty=3.0, max_tokens=None),
        SamplingParams(temperature=0, min_tokens=4, logit_bias={_EOS: 9.0}, max_tokens=None),
        SamplingParams(
            temperature=0.9,
            max_tokens=None,
            structured_outputs=StructuredOutputsParams(regex="never read"),
        ),
    ]
)
TOKENS = st.integers(0, VOCAB - 1)
SPANS = st.lists(
    st.tuples(RULES, st.lists(TOKENS, max_size=5), st.lists(TOKENS, max_size=5)),
    min_size=1,
    max_size=5,
)


class _Ascending:
    """Masks of a grammar in which no token is followed by itself."""

    def allowed(self, sequences: list[Sequence]) -> Bits:
        flags = np.ones((len(sequences), 32 * -(-VOCAB // 32)), np.bool_)
        for row, sequence in enumerate(sequences):
            flags[row, sequence.output[-1:]] = False
        return np.packbits(flags, axis=1, bitorder="little").view(np.int32)

    def begin(self, sequences: list[Sequence], tokens: list[int]) -> None:
        """Nothing is made ahead."""


_MASKS: object = _Ascending()


def _make(number: int, params: SamplingParams, output: list[int]) -> Sequence:
    request = Request(number, (1, 2), params, number, 99, frozenset({_EOS}))
    return Sequence(request, output=list(output))


def _span(sequence: Sequence, draft: tuple[int, ...] = ()) -> Span:
    return Span(sequence, 0, sequence.length - 1, 1).with_draft(draft)


def _sample(spans: list[Span], logits: torch.Tensor) -> list[tuple[Sampled, ...]]:
    return sample_batch(Batch(0, tuple(spans), ()), logits, _MASKS)  # type: ignore[arg-type]


def _step_by_step(span: Span, logits: torch.Tensor) -> list[Sampled]:
    """A row a step, as long as the draft is right."""
    sequence = replace(span.sequence, output=list(span.sequence.output))
    chosen: list[Sampled] = []
    for row, guessed in enumerate((*span.draft, None)):
        ((one,),) = _sample([_span(sequence)], logits[row : row + 1])
        chosen.append(one)
        sequence.output.append(one.token)
        if one.token != guessed:
            break
    return chosen


@given(asked=SPANS, seed=st.integers(0, 2**31))
@settings(max_examples=150, deadline=None)
def test_as_if_one_by_one(
    asked: list[tuple[SamplingParams, list[int], list[int]]], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    spans: list[Span] = []
    parts: list[torch.Tensor] = []
    for number, (params, output, draft) in enumerate(asked):
        spans.append(_span(_make(number, params, output), tuple(draft)))
        logits = torch.randn(1 + len(draft), VOCAB, generator=generator)
        for row, token in enumerate(draft):  # mostly what is guessed is likely
            logits[row, token] += 3.0
        parts.append(logits)
    drawn = _sample(spans, torch.cat(parts))
    for span, part, choices, (_, output, _) in zip(spans, parts, drawn, asked, strict=True):
        assert list(choices) == _step_by_step(span, part)
        assert span.sequence.output == output


def test_tokens_of_a_batch_that_was_lost_are_forgotten() -> None:
    """Its draft was right, but the step is taken again from where it began, with another draft."""
    params = SamplingParams(temperature=0, presence_penalty=2.0, max_tokens=None)
    sequence = _make(0, params, [])
    logits = torch.zeros(3, VOCAB)
    logits[0, 3] = logits[1, 4] = logits[2, 3] = 1.0
    lost = _sample([_span(sequence, (3, 4))], logits)
    assert [one.token for one in lost[0]] == [3, 4, 0]  # a second 3 is punished
    again = _sample([_span(sequence)], torch.tensor([[0.0, 0, 0, 1.0, 0.5, 0]]))
    assert [one.token for one in again[0]] == [3]
