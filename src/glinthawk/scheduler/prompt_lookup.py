"""What may follow a text that repeats itself: what followed the last time it was like this.

Answers quote their prompts, and themselves. Places in a text are found by its last few tokens, as
LZ77 finds them: in chains of places that fall into one bucket. A token takes 12 to 16 bytes and
constant time, as does a guess; ``tests/scheduler/plain_lookup.py`` is the slow truth.
"""

from array import array
from collections.abc import Iterable

__all__ = ["FEWEST", "MOST_ALIKE", "MOST_PLACES", "PromptLookup", "bucket_of"]

#: Tokens that must be alike. By one alone hardly anything is foretold.
FEWEST = 2
#: Of so many latest places in a bucket the one that is alike for longest is taken; not more than
#: so many tokens are compared.
MOST_PLACES = 8
MOST_ALIKE = 16
#: 256 KiB of them: the chains of a longer text hold other places, too.
_MOST_BUCKETS = 1 << 16


def bucket_of(before: int, last: int, num_buckets: int) -> int:
    """Where a place belongs that follows two tokens. ``num_buckets`` is a power of two."""
    return (before * 0x9E3779B1 + last * 0x85EBCA77 >> 8) & (num_buckets - 1)


class PromptLookup:
    """A text that grows. ``longest`` is about how long it will be."""

    def __init__(self, tokens: Iterable[int], longest: int) -> None:
        self.num_buckets = min(1 << longest.bit_length(), _MOST_BUCKETS)
        self._tokens = array("i")
        #: The last place of each bucket, and of each place the one before it there.
        self._last = array("i", [-1]) * self.num_buckets
        self._before = array("i")
        self.extend(tokens)

    def __len__(self) -> int:
        return len(self._tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """It goes on."""
        known, last, before = self._tokens, self._last, self._before
        for token in tokens:
            # What this token follows can be found from now on.
            place = len(known)
            if place >= FEWEST:
                bucket = bucket_of(known[-2], known[-1], self.num_buckets)
                before.append(last[bucket])
                last[bucket] = place
            else:
                before.append(-1)
            known.append(token)

    def guess(self, most: int) -> tuple[int, ...]:
        """What may come next: ``most`` tokens, or none."""
        place = self._find()
        if place is None:
            return ()
        known, end = self._tokens, len(self._tokens)
        guessed = known[place : place + most]
        while len(guessed) < most:  # it repeats itself, and goes on to
            guessed.append(guessed[place + len(guessed) - end])
        return tuple(guessed)

    def _find(self) -> int | None:
        """The place whose tokens before it are like the last ones for longest, and that is last of
        those."""
        known = self._tokens
        if len(known) < FEWEST:
            return None
        place = self._last[bucket_of(known[-2], known[-1], self.num_buckets)]
        best, longest = None, FEWEST - 1
        for _ in range(MOST_PLACES):
            if place < 0:
                break
            alike = self._count_alike(place)
            if alike > longest:
                best, longest = place, alike
                if alike == MOST_ALIKE:
                    break
            place = self._before[place]
        return best

    def _count_alike(self, place: int) -> int:
        """Tokens before ``place`` that are the last ones of the text."""
        known, end = self._tokens, len(self._tokens)
        count = 0
        while count < min(MOST_ALIKE, place) and known[place - 1 - count] == known[end - 1 - count]:
            count += 1
        return count
