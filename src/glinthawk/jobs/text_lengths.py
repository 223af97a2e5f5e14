"""Texts that are far too long are refused before they are tokenised whole.

The tokens of a text cut into pieces are nearly as many as those of the text: only at the cuts can
they differ. So what is refused here has twice the tokens that are allowed; all else is counted when
it is tokenised.
"""

from collections.abc import Callable, Sequence

from glinthawk.core.errors import RequestError

__all__ = ["LONG_TEXT", "check_length"]

#: Characters of a piece. Shorter texts are simply tokenised.
LONG_TEXT = 1 << 16


def check_length(
    text: str, most_tokens: int, encode: Callable[[str], Sequence[int]], param: str
) -> None:
    """Raise RequestError for a ``text`` of more than twice ``most_tokens``, as soon as so many are
    counted."""
    if len(text) <= LONG_TEXT:
        return
    count = 0
    for start in range(0, len(text), LONG_TEXT):
        count += len(encode(text[start : start + LONG_TEXT]))
        if count > 2 * most_tokens:
            raise RequestError(
                f"a text of {len(text):,} characters begins with more than {count:,} tokens, and "
                f"prompt and answer may have {most_tokens:,}; shorten it",
                param=param,
                code="context_length_exceeded",
            )
