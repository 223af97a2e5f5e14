"""Log-probabilities in the two shapes of OpenAI's APIs.

Tokens are spelled as vLLM does: what each adds to the text, so that they add up to it. A character
of several tokens stands with the last of them. A special token, which is not shown, is named.
"""

from collections.abc import Sequence as Many
from itertools import accumulate
from typing import Any

from glinthawk.core.sequence import Sequence, TokenLogprobs
from glinthawk.jobs.text import Text

__all__ = ["FLOOR", "chat_logprobs", "completion_logprobs", "name_alternatives", "say_tokens"]

#: JSON has no minus infinity; OpenAI and vLLM write this.
FLOOR = -9999.0


def chat_logprobs(sequence: Sequence, text: Text) -> dict[str, Any]:
    """An object a token, with its likeliest alternatives."""
    tokens = sequence.logprobs
    return {
        "content": [
            {
                **_entry(text, entry.token, entry.logprob, said),
                "top_logprobs": [
                    _entry(text, token, logprob, said if token == entry.token else None)
                    for token, logprob in entry.top
                ],
            }
            for entry, said in zip(tokens, _said(sequence, text), strict=True)
        ]
    }


def completion_logprobs(sequence: Sequence, text: Text) -> dict[str, Any]:
    """A list a quantity. The chosen token is always among the alternatives."""
    tokens = sequence.logprobs
    said = _said(sequence, text)
    pairs = zip(tokens, said, strict=True)
    shown = [0 if text.is_special(entry.token) else len(one) for entry, one in pairs]
    return {
        "text_offset": list(accumulate(shown, initial=0))[: len(said)],
        "token_logprobs": [max(entry.logprob, FLOOR) for entry in tokens],
        "tokens": said,
        "top_logprobs": [
            name_alternatives(entry, one, text) for entry, one in zip(tokens, said, strict=True)
        ],
    }


def _said(sequence: Sequence, text: Text) -> list[str]:
    ids = [entry.token for entry in sequence.logprobs]
    return say_tokens(sequence.request.prompt, ids, text)


def say_tokens(before: Many[int], ids: Many[int], text: Text) -> list[str]:
    """What each of ``ids`` adds to the text of ``before``, or its name where it is not shown."""
    pieces = text.token_pieces(before, ids)
    return [
        text.token_text(token) if text.is_special(token) else piece
        for token, piece in zip(ids, pieces, strict=True)
    ]


def _entry(text: Text, token: int, logprob: float, said: str | None) -> dict[str, Any]:
    """``said`` is what the chosen token adds; None for one that was not chosen."""
    return {
        "token": text.token_name(token) if said is None else said,
        "logprob": max(logprob, FLOOR),
        "bytes": text.token_bytes(token, text.token_text(token) if said is None else said),
    }


def name_alternatives(entry: TokenLogprobs, said: str, text: Text) -> dict[str, float]:
    """The likeliest tokens, and the one that ``said`` something in this place."""
    named: dict[str, float] = {}
    for token, logprob in (*entry.top, (entry.token, entry.logprob)):
        # Of tokens that are spelled alike the likeliest counts, and it comes first.
        name = said if token == entry.token else text.token_name(token)
        named.setdefault(name, max(logprob, FLOOR))
    return named
