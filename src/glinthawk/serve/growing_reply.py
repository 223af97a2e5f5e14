"""What may be shown of an answer while it grows: nothing that is taken back later."""

from collections.abc import Sequence as Many
from dataclasses import dataclass, replace

from glinthawk.core.sequence import Request, Sequence
from glinthawk.jobs.detokenize import UNFINISHED
from glinthawk.jobs.reasoning import REASONING_FORMATS
from glinthawk.jobs.replies import ReplyForm, read_reply
from glinthawk.jobs.text import Text

__all__ = ["GrowingReply", "ReplyDelta", "safe_length"]

#: Text of so many tokens is settled, and read no more; tokens before it that it depends on.
_SETTLED, _CONTEXT = 64, 64


@dataclass(frozen=True, slots=True)
class ReplyDelta:
    """What comes after what was shown before."""

    content: str = ""
    reasoning: str = ""

    def __bool__(self) -> bool:
        return bool(self.content or self.reasoning)


class GrowingReply:
    """One choice. Deltas, and the ``rest`` after them, add up to the reply. Where ``is_held``,
    everything is left to the rest."""

    def __init__(
        self, request: Request, form: ReplyForm, text: Text, *, is_held: bool = False
    ) -> None:
        self._request, self._form, self._text = request, form, text
        params = request.params
        self._plain = replace(params, stop=())
        names = text.special.values()
        names_special = any(name in stop for stop in params.stop for name in names)
        marks = REASONING_FORMATS[form.reasoning] if form.reasoning else None
        #: Calls are read from the whole; a special token that is part of a stop string is not seen.
        self._is_held = (
            is_held
            or form.tools is not None
            or names_special
            or (marks is not None and not marks.end)
        )
        self._marks = [marks.begin, marks.end] if marks else []
        self._settled, self._num_settled = "", 0
        self._content = self._reasoning = ""

    def grow(self, sequence: Sequence) -> ReplyDelta:
        """What can be shown now. ``sequence`` has not finished."""
        if self._is_held:
            return ReplyDelta()
        shown = self._shown(sequence.output)
        shown = shown[: safe_length(shown, self._request.params.stop, self._marks)]
        if not shown.strip():
            # Reasoning may follow, before which nothing stands.
            return ReplyDelta()
        reply = read_reply(self._form, shown, self._text.special)
        return self._delta(reply.content or "", reply.reasoning or "", is_whole=False)

    def rest(self, content: str, reasoning: str) -> ReplyDelta:
        """What is left of the whole reply."""
        return self._delta(content, reasoning, is_whole=True)

    def _shown(self, output: list[int]) -> str:
        """The text so far, without what ends it."""
        if output and output[-1] in self._request.stop_ids:
            output = output[:-1]
        before = [*self._request.prompt[-_CONTEXT:], *output[: self._num_settled]][-_CONTEXT:]
        new = output[self._num_settled :]
        text = self._text.final_text(before, new, self._plain)
        whole = self._settled + text
        if len(new) > _SETTLED and not text.endswith(UNFINISHED):
            self._settled, self._num_settled = whole, len(output)
        return whole.rstrip(UNFINISHED)

    def _delta(self, content: str, reasoning: str, *, is_whole: bool) -> ReplyDelta:
        more = _more(self._content, content, is_whole), _more(self._reasoning, reasoning, is_whole)
        self._content += more[0]
        self._reasoning += more[1]
        return ReplyDelta(*more)


def safe_length(text: str, stops: Many[str], marks: Many[str]) -> int:
    """Characters of ``text`` in which no stop string stands or begins, and none of ``marks`` has
    begun that is not whole.

    >>> safe_length("a cat", ["tom"], []), safe_length("a cat", ["at"], [])
    (4, 3)
    """
    found = [text.find(stop) for stop in stops if stop in text]
    if found:
        return min(found)
    longest = max(map(len, (*stops, *marks)), default=0)
    for start in range(max(0, len(text) - longest + 1), len(text)):
        if any(sign.startswith(text[start:]) for sign in (*stops, *marks)):
            return start
    return len(text)


def _more(shown: str, text: str, is_whole: bool) -> str:
    """What ``text`` has after ``shown``. What does not begin like it, as bytes of a character that
    is not whole, is waited for."""
    return text[len(shown) :] if is_whole or text.startswith(shown) else ""
