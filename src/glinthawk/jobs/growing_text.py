"""The text of an answer that grows: what is shown once is not taken back."""

from collections.abc import Collection
from dataclasses import replace

from glinthawk.core.sequence import Request
from glinthawk.jobs.detokenize import UNFINISHED
from glinthawk.jobs.text import Text

__all__ = ["GrowingText", "safe_length"]

#: Text of so many tokens is read no more; tokens before others that their text depends on.
_SETTLED, _CONTEXT = 32, 64


class GrowingText:
    """Of one sequence, until it ends. What a stop string may begin in is held back."""

    def __init__(self, request: Request, text: Text) -> None:
        self._prompt, self._text = request.prompt[-_CONTEXT:], text
        params = request.params
        self._plain = replace(params, stop=())
        self._stops = () if params.include_stop_str_in_output else tuple(params.stop)
        names = text.special.values()
        #: Special tokens are not seen in the text, so a stop string with one begins anywhere.
        self._is_hidden = any(name in stop for stop in self._stops for name in names)
        #: Text of the first tokens, and their number.
        self._settled, self._num_settled = "", 0
        self.shown = ""

    def read(self, output: list[int]) -> str:
        """All that can be shown of ``output``, which begins with what it was before."""
        if not self._plain.detokenize:
            return ""
        whole = self._decode(output)
        whole = whole[: self._safe_length(whole)]
        if whole.startswith(self.shown):
            self.shown = whole
        return self.shown

    def _safe_length(self, whole: str) -> int:
        if self._is_hidden:
            return max(0, len(whole) + 1 - max(map(len, self._stops)))
        return safe_length(whole, self._stops)

    def _decode(self, output: list[int]) -> str:
        known = output[max(0, self._num_settled - _CONTEXT) : self._num_settled]
        before = [*self._prompt, *known][-_CONTEXT:]
        new = output[self._num_settled :]
        text = self._text.final_text(before, new, self._plain)
        if len(new) >= _SETTLED and not text.endswith(UNFINISHED):
            self._settled, self._num_settled = self._settled + text, len(output)
            return self._settled
        return (self._settled + text).rstrip(UNFINISHED)


def safe_length(text: str, signs: Collection[str]) -> int:
    """Characters of ``text`` before the first place where one of ``signs`` has begun that is not
    whole yet.

    >>> safe_length("a cat", ["tom", "never"]), safe_length("a cat", ["cat", "atom"])
    (4, 3)
    """
    longest = max(map(len, signs), default=0)
    for start in range(max(0, len(text) + 1 - longest), len(text)):
        end = text[start:]
        if any(sign.startswith(end) and sign != end for sign in signs):
            return start
    return len(text)
