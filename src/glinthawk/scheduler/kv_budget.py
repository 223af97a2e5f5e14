"""KV room at one home: pages that are used now, pages that will be, and prefixes to share."""

from collections.abc import Container
from typing import NamedTuple

from glinthawk.core.pages import Pages
from glinthawk.core.rope import LengthRope
from glinthawk.core.sequence import Sequence
from glinthawk.scheduler.answer_lengths import AnswerLengths
from glinthawk.scheduler.census import Census
from glinthawk.scheduler.peak_forecast import PeakForecast
from glinthawk.scheduler.prefixes import Prefixes

__all__ = ["KVBudget", "Start"]

#: A prefix is shared where that saves at least this part of a prompt. The rest of the prompt is
#: then attended at home, which for a short prefix would cost more than computing it again.
_WORTH_SHARING = 0.2


class Start(NamedTuple):
    """How a sequence could begin at a home: with the first ``num_tokens`` of ``source``'s."""

    source: int | None
    num_tokens: int
    #: Its other tokens, which are to be computed and kept.
    num_own: int
    #: Another sequence, which is being prefilled, will soon have more to share.
    is_early: bool


class KVBudget:
    """A home's pages, counted exactly as the home does, and who lives there."""

    def __init__(
        self,
        num_pages: int,
        page_tokens: int,
        most_sequences: int | None = None,
        rope: LengthRope | None = None,
    ) -> None:
        self.pages = Pages(num_pages, page_tokens)
        self._most_sequences = most_sequences or num_pages
        #: Admitted and not finished, in order of admission: the last is youngest.
        self.living: dict[int, Sequence] = {}
        #: Ended, but those that wait begin alike; given up, oldest first, when pages are needed.
        self.kept: dict[int, Sequence] = {}
        #: (tokens, tokens to come) of a sequence for which there was no room, since when none left.
        self._refused: tuple[int, int] | None = None
        self._census = Census()
        #: Of those that live here; None when one of them stepped or left.
        self._forecast: PeakForecast | None = None
        #: Answers from which had been learned what the forecast and the refusal say.
        self._num_learned = 0
        self._prefilled = Prefixes(page_tokens, rope)
        self._prefilling = Prefixes(page_tokens, rope)

    @property
    def num_living_tokens(self) -> int:
        """Of all that live here."""
        return self._census.num_tokens

    def start(self, sequence: Sequence) -> Start:
        """What ``sequence`` finds here of its prompt."""
        if sequence.needs_rows:  # of rows that others computed nothing is known
            return Start(None, 0, sequence.length, False)
        source, num_tokens = self._prefilled.find(sequence)
        coming, more_tokens = self._prefilling.find(sequence)
        length = sequence.length
        worth = _WORTH_SHARING * length
        is_early = coming is not None and more_tokens > num_tokens and more_tokens >= worth
        if source is None or num_tokens < worth:
            return Start(None, 0, length, is_early)
        return Start(source.id, num_tokens, length - num_tokens, is_early)

    def fits(self, start: Start) -> bool:
        """Whether there are a place for one that would begin so and pages for what it has now."""
        if len(self.living) + len(self.kept) >= self._most_sequences:
            return False
        pages = self.pages
        return -(-start.num_own // pages.page_tokens) <= pages.num_free

    def admit(self, sequence: Sequence, start: Start, lengths: AnswerLengths) -> None:
        """Give ``sequence`` its pages."""
        if start.source is not None:
            self.pages.share(start.source, sequence.id, start.num_tokens)
        fits = self.pages.grow(sequence.id, start.num_tokens + start.num_own)
        assert fits
        sequence.shared = start.num_tokens
        self.living[sequence.id] = sequence
        self._census.add(sequence)
        if self._forecast is not None:
            self._forecast.add(start.num_own, lengths.expect_remaining(sequence))
        self._prefilling.add(sequence)

    def stepped(self, sequence: Sequence) -> None:
        """It has a token more, and its prompt, at the latest, has now been computed."""
        self._census.stepped(sequence)
        self._forecast = None
        self.computed(sequence)

    def computed(self, sequence: Sequence) -> None:
        """Its whole prompt is here: others may share it."""
        if sequence in self._prefilling:
            self._prefilling.discard(sequence)
            self._prefilled.add(sequence)

    def keep(self, sequence: Sequence) -> None:
        """It has ended; its pages stay for others that begin alike."""
        self.kept[sequence.id] = self.living[sequence.id]
        self._leave(sequence)
        self._refused = None

    def evict(self, spare: Container[int | None] = ()) -> int | None:
        """Give up the oldest of those kept, but none of ``spare``; returns its number."""
        oldest = next((number for number in self.kept if number not in spare), None)
        if oldest is not None:
            self._release(self.kept.pop(oldest))
        return oldest

    def forget(self, sequence: Sequence) -> None:
        """Take its pages back, but for those that others share."""
        self._leave(sequence)
        self._release(sequence)
        sequence.shared = 0

    def _leave(self, sequence: Sequence) -> None:
        del self.living[sequence.id]
        self._census.remove(sequence)
        self._forecast = None

    def _release(self, sequence: Sequence) -> None:
        self.pages.release(sequence.id)
        self._refused = None
        self._prefilling.discard(sequence)
        self._prefilled.discard(sequence)

    def peak_with(
        self, sequence: Sequence, start: Start, lengths: AnswerLengths, *, is_compared: bool = True
    ) -> int | None:
        """Most tokens here at one time, if ``sequence`` comes too; None if that is more than there
        is room for. A home that is empty takes anything that fits at all.

        Where the peak ``is_compared`` with no other home's, it may be said too large."""
        self._learn(lengths)
        new = start.num_own, lengths.expect_remaining(sequence)
        if self._refused is not None and new[0] >= self._refused[0] and new[1] >= self._refused[1]:
            # Those that live here step, which makes what they have more and what comes less.
            return None
        if not is_compared and (most := self._most_with(*new)) <= self.pages.num_tokens:
            return most
        if self._forecast is None:
            self._forecast = self._census.forecast(self.pages.page_tokens, lengths)
        peak = self._forecast.peak_with(*new)
        if peak <= self.pages.num_tokens or not self.living:
            return peak
        self._refused = new
        return None

    def _most_with(self, own: int, left: int) -> int:
        """What all would hold if each had come to its end, and nobody had left."""
        half_pages = (len(self.living) + 1) * (self.pages.page_tokens // 2)
        return self._census.most_own_tokens + own + left + half_pages

    def _learn(self, lengths: AnswerLengths) -> None:
        """Other expectations, learned wherever a sequence ended, make other answers."""
        if self._num_learned != lengths.num_ended:
            self._num_learned = lengths.num_ended
            self._forecast = self._refused = None

    def validate(self) -> None:
        """The sums hold."""
        self.pages.validate()
        assert self.pages.held.keys() == self.living.keys() | self.kept.keys()
