"""Where a sequence will live."""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from glinthawk.core.sequence import Sequence
from glinthawk.scheduler.answer_lengths import AnswerLengths
from glinthawk.scheduler.kv_budget import KVBudget, Start
from glinthawk.scheduler.offload_policy import OffloadPolicy
from glinthawk.scheduler.step_cost import TIER1

__all__ = ["Evict", "Placement"]

#: Give up KV that a home kept for its prefix; False if there is none.
Evict = Callable[[int], bool]

#: How much more a home may have to do than the idlest one, because a sequence finds its prefix
#: there: a tenth, and a few sequences, so that small groups stay together.
_UNEVEN, _UNEVEN_SEQUENCES = 1.1, 4


class _Place(NamedTuple):
    """A home that could take a sequence."""

    #: Of the home, with the sequence; and of each of its tokens.
    burden: float
    of_token: float
    home: int
    start: Start


class Placement:
    """Finds homes, by the room that is there and the speed that is known."""

    def __init__(
        self, budgets: Mapping[int, KVBudget], policy: OffloadPolicy, lengths: AnswerLengths
    ) -> None:
        self._budgets, self._policy, self._lengths = budgets, policy, lengths

    def find(self, sequence: Sequence, num_waiting: int, evict: Evict) -> tuple[int, Start] | None:
        """A home with room for ``sequence``, and what it finds there of its prompt.

        Tier 1 itself, if it has room; else a worker, if that pays: the one with the smallest burden
        then; or one that has its prefix, if its burden is not much larger.
        """
        places = self._places([TIER1], sequence, evict) if TIER1 in self._budgets else []
        if not places:
            if not self._policy.pays(sequence, num_waiting):
                return None
            workers = [home for home in self._budgets if home != TIER1]
            places = self._places(workers, sequence, evict)
        if not places:
            return None
        if len(places) > 1:
            places = self._with_prefix(sequence, places) or places
        best = min(places)
        return best.home, best.start

    def _places(self, homes: Collection[int], sequence: Sequence, evict: Evict) -> list[_Place]:
        """Those of ``homes`` with room for ``sequence``, and how much each will have to do.

        A worker's burden is the time in which it attends to its tokens at the peak, if the speed of
        all is known, so that a batch's slowest worker is about as fast as its fastest; else the
        share of its room that they take. A home alone has nobody to be compared with.
        """
        places = []
        is_compared = len(homes) > 1
        for home in homes:
            budget = self._budgets[home]
            start = budget.start(sequence)
            while not (fits := budget.fits(start)) and evict(home):
                start = budget.start(sequence)
            if not fits:
                continue
            peak = budget.peak_with(sequence, start, self._lengths, is_compared=is_compared)
            if peak is not None:
                of_token = self._of_token(home) if is_compared else 1.0
                places.append(_Place(peak * of_token, of_token, home, start))
        return places

    def _of_token(self, home: int) -> float:
        return self._policy.seconds_of_token(home) or 1 / self._budgets[home].pages.num_tokens

    def _with_prefix(self, sequence: Sequence, places: list[_Place]) -> list[_Place]:
        """Those of ``places`` that have, or will have, its prefix and not too much to do."""
        least = min(place.burden for place in places)
        few = _UNEVEN_SEQUENCES * (sequence.length + sequence.remaining)
        return [
            place
            for place in places
            if (place.start.source is not None or place.start.is_early)
            and place.burden <= _UNEVEN * least + few * place.of_token
        ]
