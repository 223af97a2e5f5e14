"""What may be shown of an answer while it grows: nothing that is taken back later."""

from dataclasses import dataclass

from glinthawk.core.sequence import Request, Sequence
from glinthawk.jobs.growing_text import GrowingText, safe_length
from glinthawk.jobs.reasoning import REASONING_FORMATS
from glinthawk.jobs.replies import ReplyForm, read_reply
from glinthawk.jobs.text import Text

__all__ = ["GrowingReply", "ReplyDelta"]


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
        self._form, self._special = form, text.special
        self._text = GrowingText(request, text)
        marks = REASONING_FORMATS[form.reasoning] if form.reasoning else None
        #: Calls are read from the whole, and so are thoughts without marks.
        self._is_held = is_held or form.tools is not None or (marks is not None and not marks.end)
        self._marks = (marks.begin, marks.end) if marks else ()
        self._content = self._reasoning = ""

    def grow(self, sequence: Sequence) -> ReplyDelta:
        """What can be shown now. ``sequence`` has not finished."""
        if self._is_held:
            return ReplyDelta()
        shown = self._text.read(sequence.output)
        shown = shown[: safe_length(shown, self._marks)]
        if not shown.strip() or self._may_be_thoughts(shown):
            return ReplyDelta()
        reply = read_reply(self._form, shown, self._special)
        return self._delta(reply.content or "", reply.reasoning or "", is_whole=False)

    def _may_be_thoughts(self, shown: str) -> bool:
        """Whether an end mark may follow, which would make thoughts of what has no first mark."""
        if not self._marks or self._form.in_reasoning:
            return False
        begin, end = self._marks
        return not shown.lstrip().startswith(begin) and end not in shown

    def rest(self, content: str, reasoning: str) -> ReplyDelta:
        """What is left of the whole reply."""
        return self._delta(content, reasoning, is_whole=True)

    def _delta(self, content: str, reasoning: str, *, is_whole: bool) -> ReplyDelta:
        more = _more(self._content, content, is_whole), _more(self._reasoning, reasoning, is_whole)
        self._content += more[0]
        self._reasoning += more[1]
        return ReplyDelta(*more)


def _more(shown: str, text: str, is_whole: bool) -> str:
    """What ``text`` has after ``shown``. What does not begin like it, as thoughts whose end is not
    there yet, is waited for."""
    return text[len(shown) :] if is_whole or text.startswith(shown) else ""
