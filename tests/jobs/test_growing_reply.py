"""What is shown of a growing answer adds up to the answer, and is never taken back."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request, Sequence
from glinthawk.jobs.growing_text import safe_length
from glinthawk.jobs.replies import ReplyForm, read_reply
from glinthawk.jobs.text import Text
from glinthawk.serve.growing_reply import GrowingReply

PIECES = [
    "the cat",
    " sat",
    " on",
    "日本",
    "語🙂",
    "<",
    "think",
    ">",
    "</think>",
    "\n",
    " ",
    "naïve",
]


@pytest.fixture(scope="module", params=["bpe_folder", "fallback_folder"])
def spoken(request: pytest.FixtureRequest) -> Text:
    return Text.load(request.getfixturevalue(request.param))


def grown(text: Text, output: list[int], form: ReplyForm, **params: Any) -> list[str]:
    """What was shown of the content after each token, and then all of it; reasoning too."""
    request = Request(0, (5, 6), SamplingParams(**params), 0, len(output) + 1)
    reply, shown, thought = GrowingReply(request, form, text), [""], ""
    for length in range(1, len(output)):
        delta = reply.grow(Sequence(request, output=output[:length]))
        shown.append(shown[-1] + delta.content)
        thought += delta.reasoning
    final = text.final_text(request.prompt, output, request.params)
    whole = read_reply(form, final, text.special)
    rest = reply.rest(whole.content or "", whole.reasoning or "")
    assert shown[-1] + rest.content == whole.content
    assert thought + rest.reasoning == (whole.reasoning or "")
    return [*shown, shown[-1] + rest.content]


@given(pieces=st.lists(st.sampled_from(PIECES), max_size=12))
def test_text_adds_up(spoken: Text, pieces: list[str]) -> None:
    grown(spoken, list(spoken.encode("".join(["a", *pieces]))[1:]), ReplyForm())


@given(tokens=st.lists(st.integers(4, 270), min_size=1, max_size=200))
def test_any_tokens_add_up(text: Text, tokens: list[int]) -> None:
    """But for byte fallback, which takes back what it made of bytes that are no text."""
    grown(text, tokens, ReplyForm())


@given(pieces=st.lists(st.sampled_from(PIECES), max_size=12))
@pytest.mark.parametrize("first", ["<think>", "a", " <think>", "a<think>"])
@pytest.mark.parametrize("in_reasoning", [False, True])
def test_reasoning_adds_up(spoken: Text, first: str, in_reasoning: bool, pieces: list[str]) -> None:
    """Models leave their first mark out now and then."""
    said = "".join([first, *pieces])
    form = ReplyForm(reasoning="qwen3", in_reasoning=in_reasoning)
    grown(spoken, list(spoken.encode(said)), form, stop=[])


def test_a_long_text_is_shown_soon(spoken: Text) -> None:
    output = list(spoken.encode("the cat sat on the mat " * 20))
    shown = grown(spoken, output, ReplyForm())
    assert len(shown[-2]) > len(shown[-1]) - 20


@given(st.text("abc", max_size=12), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_no_part_of_a_stop_string_is_safe(text: str, stops: list[str]) -> None:
    """Whatever comes next: what is safe now is before any stop string that is whole then."""
    length = safe_length(text, stops)
    for more in ("", "a", "b", "c", "ab", "bc", "ca", "abc", "cab"):
        for stop in stops:
            place = (text + more).find(stop, max(0, len(text) + 1 - len(stop)))
            assert place < 0 or length <= place


@given(pieces=st.lists(st.sampled_from([*PIECES, "at", "<|user|>", "</s>"]), max_size=12))
def test_a_stop_string_may_name_special_tokens(bpe_folder: Path, pieces: list[str]) -> None:
    text, stop = Text.load(bpe_folder), "at<|user|> on and on"
    before = "".join(["a", *pieces])
    output = list(text.encode(before + stop))[1:]
    shown = grown(text, output, ReplyForm(), stop=[stop])
    assert shown[-1] == before.replace("<|user|>", "").replace("</s>", "")


def test_calls_are_left_to_the_rest(spoken: Text) -> None:
    request = Request(0, (5, 6), SamplingParams(), 0, 50)
    reply = GrowingReply(request, ReplyForm(), spoken, is_held=True)
    assert not reply.grow(Sequence(request, output=list(spoken.encode("the cat sat"))))
    assert reply.rest("the cat", "").content == "the cat"
