"""The text of an answer that grows: what is shown once is not taken back."""

from dataclasses import replace

from glinthawk.core.sequence import Request
from glinthawk.jobs.detokenize import UNFINISHED
from glinthawk.jobs.text import Text

__all__ = ["GrowingText"]

#: Text of so many tokens is read no more; tokens before others that their text depends on.
_SETTLED, _CONTEXT = 32, 64


class GrowingText:
    """Of one sequence. What a stop string may begin in is held back."""

    def __init__(self, request: Request, text: Text) -> None:
        self._request, self._text = request, text
        params = request.params
        self._plain = replace(params, stop=())
        is_cut = params.stop and not params.include_stop_str_in_output
        self._held = max(map(len, params.stop)) - 1 if is_cut else 0
        #: Text of the first tokens, and their number.
        self._settled, self._num_settled = "", 0
        self.shown = ""

    def read(self, output: list[int]) -> str:
        """All that can be shown of ``output``, which begins with what it was before."""
        if not self._request.params.detokenize:
            return ""
        whole = self._decode(output)
        whole = whole[: max(0, len(whole) - self._held)]
        if whole.startswith(self.shown):
            self.shown = whole
        return self.shown

    def _decode(self, output: list[int]) -> str:
        known = output[max(0, self._num_settled - _CONTEXT) : self._num_settled]
        before = [*self._request.prompt, *known][-_CONTEXT:]
        new = output[self._num_settled :]
        text = self._text.final_text(before, new, self._plain)
        if len(new) >= _SETTLED and not text.endswith(UNFINISHED):
            self._settled, self._num_settled = self._settled + text, len(output)
            return self._settled
        return (self._settled + text).rstrip(UNFINISHED)
