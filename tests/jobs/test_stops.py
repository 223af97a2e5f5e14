"""Stop strings: the cheap look at the tail finds what a look at everything finds."""

from collections.abc import Sequence

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from glinthawk.core.sampling import SamplingParams
from glinthawk.jobs.detokenize import Detokenizer
from glinthawk.jobs.ending import Ending
from glinthawk.jobs.spelling import Spelling
from glinthawk.jobs.stops import stop_span
from glinthawk.jobs.text import Text

_RELAXED = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
_STOPS = st.lists(
    st.sampled_from(
        [
            "\n",
            "a",
            "th",
            " the",
            "the cat",
            "é",
            "日本",
            "🙂",
            "🙂🙂",
            "hello world, how",
            "\ufffd",
        ]
    ),
    min_size=1,
    max_size=3,
)
_WORDS = st.lists(
    st.sampled_from(["the", " ", "cat", "hello world, how", "日本語", "🙂", "é", "\n", "x"]),
    max_size=12,
).map("".join)


def _naive(text: Text, output: list[int], params: SamplingParams) -> bool:
    immune = len(text.decode(output[: params.min_tokens])) if params.min_tokens else 0
    return stop_span(text.decode(output), params.stop, immune) is not None


def _check(text: Text, output: list[int], params: SamplingParams) -> None:
    """Grow the output until a stop, as an engine does."""
    for end in range(1, len(output) + 1):
        found = text.find_stop((), output[:end], params)
        assert found == _naive(text, output[:end], params)
        if found:
            cut = text.final_text((), output[:end], params)
            assert any(text.decode(output[:end]).startswith(cut + stop) for stop in params.stop)
            return
    assert text.final_text((), output, params) == text.decode(output)


@_RELAXED
@given(words=_WORDS, stops=_STOPS, min_tokens=st.integers(0, 6))
@example(words="🙂🙂🙂🙂🙂🙂🙂🙂 日本語", stops=["日本"], min_tokens=0)
@example(words="the the the", stops=["the"], min_tokens=2)
def test_stops_in_text(
    text: Text, fallback_text: Text, words: str, stops: list[str], min_tokens: int
) -> None:
    params = SamplingParams(stop=stops, min_tokens=min_tokens, max_tokens=None)
    for face in (text, fallback_text):
        _check(face, list(face.encode(words)), params)


@_RELAXED
@given(output=st.lists(st.integers(0, 325), max_size=40), stops=_STOPS)
def test_stops_in_noise(text: Text, output: list[int], stops: list[str]) -> None:
    """Any tokens at all: special ones, parts of characters, ids beyond the vocabulary."""
    _check(text, output, SamplingParams(stop=stops))


def test_the_earliest_of_several_stops_counts(text: Text) -> None:
    params = SamplingParams(stop=["mat", "cat sat", "sat"])
    assert text.final_text((), text.encode("the cat sat on the mat"), params) == "the "


def test_what_min_tokens_protect_stays(text: Text) -> None:
    ids = text.encode("the cat the cat")
    params = SamplingParams(stop=["cat"], min_tokens=3, max_tokens=None)
    protected = text.decode(ids[:3])
    assert "cat" in text.final_text((), ids, SamplingParams(), drop_last=False)
    assert text.final_text((), ids, params).startswith(protected)


def test_the_last_token_can_be_left_out(text: Text) -> None:
    ids = text.encode("the cat")
    assert text.final_text((), ids, SamplingParams(), drop_last=True) == text.decode(ids[:-1])


def test_only_a_hit_decodes_everything(text: Text) -> None:
    """The work of a token does not grow with the output."""
    ids = list(text.encode("the mat " * 500))
    longest = 0

    class Counting(Detokenizer):
        def decode(self, ids: Sequence[int]) -> str:
            nonlocal longest
            longest = max(longest, len(ids))
            return super().decode(ids)

    counting = Counting(text._tokenizer)
    ending = Ending(counting, Spelling(text._tokenizer, counting))
    for stops in (["dog", "\n\n\n"], ["</s>", "dog"]):
        assert not ending.is_near(ids, ids, SamplingParams(stop=stops))
    assert longest < 40
