"""Scores of prompts' tokens, all at once, against one row at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_cases import Cases

from glinthawk.core.batch import Batch, Span
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request, Sequence
from glinthawk.tier1.sampler import sample_batch
from glinthawk.tier1.sampling import draws, ranking
from glinthawk.tier1.sampling.sampling_reference import score_token
from glinthawk.tier1.step_result import take_result


def _spans(cases: Cases, size: int) -> list[Span]:
    """Decode rows and prompts, whole ones and chunks, some of whose rows are scored already."""

    def one(number: int) -> Span:
        prompt = tuple(int(size * cases.number()) for _ in range(1 + cases.pick(range(9))))
        wish = cases.pick([None, 0, 1, 5, 20])
        params = SamplingParams(temperature=0, prompt_logprobs=wish)
        sequence = Sequence(Request(number, prompt, params, 0, 9))
        start = cases.pick(range(len(prompt)))
        length = 1 + cases.pick(range(len(prompt) - start))
        sequence.num_scored = start + cases.pick(range(length + 1))
        is_last = start + length == len(prompt)
        scored = sequence.count_unscored(start, length)
        return Span(sequence, 0, start, length, num_sampled=int(is_last), num_scored=scored)

    return [one(number) for number in range(6)]


def _check(cases: Cases, size: int) -> None:
    batch = Batch(0, tuple(_spans(cases, size)), ())
    logits = cases.logits(batch.num_tokens, size)
    meta = batch.rows()
    result = take_result(batch, logits[meta.kept])
    assert result.sampled == sample_batch(batch, logits[meta.sampled])
    flat = [score for part in result.scores for score in part]
    places = [place for span in batch.spans for place in span.scored if span.num_scored]
    spans = [span for span in batch.spans for _ in range(span.num_scored)]
    assert len(flat) == len(meta.scored) == len(places)
    for row, place, span, score in zip(meta.scored, places, spans, flat, strict=True):
        assert meta.positions[row] == place
        request = span.sequence.request
        token = request.prompt[place + 1]
        num_top = request.params.prompt_logprobs
        assert num_top is not None
        truth = score_token(logits[row].float(), token, min(num_top, size))
        assert score.rank == truth.rank
        assert score.logprob == pytest.approx(truth.logprob, abs=1e-5, rel=1e-6)
        assert [id for id, _ in score.top] == [id for id, _ in truth.top]
        values = [value for _, value in score.top]
        assert values == pytest.approx([value for _, value in truth.top], abs=1e-5, rel=1e-6)


@pytest.mark.parametrize("has_kernel", [True, False])
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.sampled_from([8, 30, 700]))
def test_rows_are_scored_as_each_alone(has_kernel: bool, seed: int, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if not has_kernel:
            patch.setattr(ranking, "has_kernel", lambda _: False)
        _check(Cases(seed), size)


def test_as_many_rows_as_there_are_are_scored_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draws, "_AT_ONCE", 64)
    _check(Cases(1), 30)


def test_rows_without_a_distribution_have_scores_that_say_so() -> None:
    sequence = Sequence(Request(0, (1, 2, 3), SamplingParams(prompt_logprobs=2), 0, 9))
    span = Span(sequence, 0, 0, 3, num_scored=2)
    logits = torch.full((3, 8), float("nan"))
    logits[1:] = 0
    ((first, second),) = take_result(Batch(0, (), (span,)), logits).scores
    assert first.logprob != first.logprob
    assert second.logprob == pytest.approx(-(torch.tensor(8.0).log().item()))
    assert second.rank == 4
