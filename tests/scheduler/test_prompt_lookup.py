"""Prompt lookup: the index against looking everywhere."""

from hypothesis import given
from hypothesis import strategies as st

from glinthawk.scheduler.prompt_lookup import MOST_PLACES, PromptLookup
from plain_lookup import plain_guess

#: Few tokens, so that much repeats; and some whose buckets are far apart.
TEXTS = st.one_of(
    st.lists(st.integers(0, 2), max_size=60),
    st.lists(st.integers(0, 300_000), max_size=20).map(lambda text: text * 3),
)


@given(text=TEXTS, grown=TEXTS, most=st.integers(1, 9), longest=st.integers(1, 200))
def test_an_index_that_grows_guesses_as_one_who_looks_everywhere(
    text: list[int], grown: list[int], most: int, longest: int
) -> None:
    lookup = PromptLookup(text, longest)
    for end in range(len(grown) + 1):
        whole = text + grown[:end]
        assert len(lookup) == len(whole)
        assert lookup.guess(most) == plain_guess(whole, most, lookup.num_buckets)
        lookup.extend(grown[end : end + 1])


def test_a_quotation_goes_on() -> None:
    prompt = range(100, 150)
    lookup = PromptLookup([*prompt, 7, 110, 111], 60)
    assert lookup.guess(4) == (112, 113, 114, 115)


def test_the_longer_likeness_is_taken_before_the_later_one() -> None:
    assert PromptLookup([1, 2, 3, 4, 9, 2, 3, 5, 1, 2, 3], 20).guess(1) == (4,)


def test_what_repeats_itself_goes_on_beyond_its_end() -> None:
    assert PromptLookup([5, 1, 2, 1, 2, 1, 2], 20).guess(7) == (1, 2, 1, 2, 1, 2, 1)


def test_few_places_are_looked_at_however_many_there_are() -> None:
    far = [1, 2, 3, 4, 50]
    near = [9, 3, 4, 60] * MOST_PLACES
    assert PromptLookup([*far, *near, 1, 2, 3, 4], 60).guess(1) == (60,)


def test_a_text_without_repetition_foretells_nothing() -> None:
    assert PromptLookup(range(50), 60).guess(5) == ()
    assert PromptLookup([], 1).guess(5) == PromptLookup([3], 1).guess(5) == ()
