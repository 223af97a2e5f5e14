"""The jobs of ``glinthawk bench job``: every request fits, and lengths are what they say."""

import statistics

import pytest

from glinthawk.bench.job_kinds import JOB_KINDS, JobKind


@pytest.mark.parametrize("kind", JOB_KINDS.values(), ids=JOB_KINDS)
def test_no_request_is_longer_than_the_longest(kind: JobKind) -> None:
    for number in range(kind.requests):
        prompt, new = kind.lengths(number)
        assert min(prompt, new) > 0
        assert prompt + new <= kind.longest


def test_conversations_have_the_means_that_they_are_drawn_for() -> None:
    """Fewer answer tokens, by those that were cut at 1,024."""
    prompts, answers = zip(*map(JOB_KINDS["chat"].lengths, range(2_000)), strict=True)
    assert statistics.mean(prompts) == pytest.approx(161, rel=0.1)
    assert statistics.mean(answers) == pytest.approx(338, rel=0.15)
