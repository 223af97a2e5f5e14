"""Prompt lookup speculation: a decode row may be followed by tokens that are guessed.

The step tells which were right, so answers stay what they are. Where a step's time is that of
reading weights, or a link's, rows of guesses are nearly free. Drafts never take memory from anyone:
they stay on the page that the sequence has, and wrong ones leave nothing that is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from glinthawk.core.batch import Span
from glinthawk.core.sequence import Sequence
from glinthawk.scheduler.batch_limits import BatchLimits
from glinthawk.scheduler.counts import Counts
from glinthawk.scheduler.draft_worth import DraftWorth, HitRate
from glinthawk.scheduler.kv_budget import KVBudget
from glinthawk.scheduler.prompt_lookup import PromptLookup

__all__ = ["Speculation"]

#: An answer whose guesses are wrong is only looked at every so many tokens: that takes time, too.
_SELDOM = 8
#: Tokens of an answer for which an index has buckets from the beginning.
_EXPECTED = 1024


@dataclass(slots=True)
class _Text:
    """Of one sequence."""

    lookup: PromptLookup
    rate: HitRate = field(default_factory=HitRate)
    #: What was guessed to follow its newest token, drafted or not.
    guess: tuple[int, ...] = ()


class Speculation:
    """Guesses for the batches of one scheduler, and learns what came of them."""

    def __init__(
        self, limits: BatchLimits, budgets: Mapping[int, KVBudget], counts: Counts
    ) -> None:
        self._limits, self._budgets, self._counts = limits, budgets, counts
        self._worth = None if limits.drafts is None else DraftWorth(limits, limits.drafts)
        #: A sequence that is gone takes its index along; one that is pre-empted keeps it.
        self._texts: WeakKeyDictionary[Sequence, _Text] = WeakKeyDictionary()
        self._rate = HitRate()

    def add_drafts(self, spans: list[Span]) -> list[Span]:
        """The spans of a batch, some decode rows among them with drafts: as many as there is room
        for in the batch and on their pages."""
        if self._worth is None:
            return spans
        rows = sum(span.length for span in spans)
        places = [place for place, span in enumerate(spans) if _may_have_draft(span)]
        if not self._worth.may_pay(rows, len(places)):
            return spans
        guesses = [(place, self._guess(spans[place])) for place in places]
        guesses = [(place, text) for place, text in guesses if text.guess]
        rates = [text.rate.expect(self._rate) for _, text in guesses]
        longest = [len(text.guess) for _, text in guesses]
        lengths = self._worth.choose(rows, len(places), rates, longest) if guesses else []
        drafted = list(spans)
        room = max(0, self._limits.batch_tokens - rows)
        for (place, text), length in zip(guesses, lengths, strict=True):
            taken = min(length, room)
            room -= taken
            self._counts.drafted_tokens += taken
            if taken:
                drafted[place] = spans[place].with_draft(text.guess[:taken])
        return drafted

    def stepped(self, span: Span, tokens: tuple[int, ...]) -> None:
        """What came of a span."""
        if self._worth is None:
            return
        if span.draft:
            self._counts.accepted_tokens += max(0, len(tokens) - 1)
        text = self._texts.get(span.sequence)
        if text is None or not text.guess:
            return
        right = judged = 0
        for guessed, token in zip(text.guess, tokens, strict=False):
            judged += 1
            if guessed != token:
                break
            right += 1
        text.guess = ()
        text.rate.add(right, judged)
        self._rate.add_of_many(right, judged)

    def _guess(self, span: Span) -> _Text:
        """What may follow a decode row; what would follow the answer's end is left out."""
        sequence, text = span.sequence, self._text_of(span.sequence)
        assert self._limits.drafts is not None
        assert self._worth is not None
        text.guess = ()
        # Behind the first token of a page there is most room.
        if sequence.length % _SELDOM != 1 and self._worth.is_hopeless(text.rate.expect(self._rate)):
            return text
        page_tokens = self._budgets[span.home].pages.page_tokens
        most = min(self._limits.drafts.most, sequence.remaining - 1, -sequence.length % page_tokens)
        if self._limits.rope is not None:
            within = self._limits.rope.most_drafted(sequence)
            most = most if within is None else min(most, within)
        if most > 0:
            known = len(text.lookup)
            text.lookup.extend(sequence.tokens(known, sequence.length - known))
            guess = text.lookup.guess(most)
            stops = (n for n, token in enumerate(guess) if token in sequence.request.stop_ids)
            text.guess = guess[: next(stops, None)]
        return text

    def _text_of(self, sequence: Sequence) -> _Text:
        text = self._texts.get(sequence)
        if text is None:
            request = sequence.request
            longest = len(request.prompt) + min(request.max_tokens, _EXPECTED)
            text = self._texts[sequence] = _Text(PromptLookup((), longest))
        return text


def _may_have_draft(span: Span) -> bool:
    return span.is_decode and not span.is_first and span.num_sampled == 1
