"""Log-probabilities in the two shapes of OpenAI's APIs."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from glinthawk.core.sequence import TokenLogprobs
from glinthawk.jobs.text import Text

__all__ = ["chat_logprobs", "completion_logprobs"]

#: JSON has no minus infinity; OpenAI and vLLM write this.
_FLOOR = -9999.0


def chat_logprobs(tokens: Sequence[TokenLogprobs], text: Text) -> dict[str, Any]:
    """An object a token, with its likeliest alternatives."""
    return {
        "content": [
            {
                **_entry(text, entry.token, entry.logprob),
                "top_logprobs": [_entry(text, token, logprob) for token, logprob in entry.top],
            }
            for entry in tokens
        ]
    }


def completion_logprobs(tokens: Sequence[TokenLogprobs], text: Text) -> dict[str, Any]:
    """A list a quantity. The chosen token is always among the alternatives."""
    spelled = [text.token_text(entry.token) for entry in tokens]
    return {
        "text_offset": list(accumulate(map(len, spelled), initial=0))[: len(spelled)],
        "token_logprobs": [max(entry.logprob, _FLOOR) for entry in tokens],
        "tokens": spelled,
        "top_logprobs": [_alternatives(entry, text) for entry in tokens],
    }


def _entry(text: Text, token: int, logprob: float) -> dict[str, Any]:
    spelled = text.token_text(token)
    # A token that is a part of a character has no text of its own.
    whole = text.has_tokenizer and "\ufffd" not in spelled
    return {
        "token": spelled,
        "logprob": max(logprob, _FLOOR),
        "bytes": list(spelled.encode()) if whole else None,
    }


def _alternatives(entry: TokenLogprobs, text: Text) -> dict[str, float]:
    named: dict[str, float] = {}
    for token, logprob in (*entry.top, (entry.token, entry.logprob)):
        # Of tokens that are spelled alike the likeliest counts, and it comes first.
        named.setdefault(text.token_text(token), max(logprob, _FLOOR))
    return named
