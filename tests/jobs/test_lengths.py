"""A text that is far too long costs little more than one that just fits."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glinthawk.core.errors import RequestError
from glinthawk.core.limits import Limits
from glinthawk.jobs.lines import LineReader, Refusal, Task
from glinthawk.jobs.text import Text
from glinthawk.jobs.text_lengths import LONG_TEXT, check_length
from job_files import line

_WORDS = "the cat sat on the mat "


class _Counting:
    """A tokenizer of words that counts the characters it is given."""

    def __init__(self) -> None:
        self.characters = 0

    def __call__(self, text: str) -> list[str]:
        self.characters += len(text)
        return text.split()


def test_no_more_is_tokenised_than_what_decides() -> None:
    encode = _Counting()
    with pytest.raises(RequestError, match="tokens"):
        check_length(_WORDS * 1_000_000, 1000, encode, "prompt")
    assert encode.characters == LONG_TEXT


@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=30)
@given(st.integers(1, 20_000), st.sampled_from(["the cat ", "mat", " ", "é", "x "]))
def test_what_fits_is_never_refused(text: Text, repeats: int, part: str) -> None:
    whole = part * repeats * 5
    count = len(text.encode(whole))
    assert len(text.encode(whole, count)) == count


@pytest.mark.parametrize("url", ["/v1/completions", "/v1/chat/completions"])
def test_a_large_line_is_refused_and_a_long_one_that_fits_is_answered(text: Text, url: str) -> None:
    def read(repeats: int, longest: int) -> Task | Refusal:
        said = _WORDS * repeats
        body: dict[str, Any] = {"prompt": said}
        if "chat" in url:
            body = {"messages": [{"role": "user", "content": said}]}
        reader = LineReader(text, Limits(longest, 1 << 30, 320), "tiny")
        return reader.read(0, json.dumps(line("a", url, **body)).encode())

    refused = read(1_000_000, 4096)
    assert isinstance(refused, Refusal)
    assert refused.error.code == "context_length_exceeded"
    assert "characters" in str(refused.error)
    assert isinstance(read(5_000, 1 << 20), Task)
