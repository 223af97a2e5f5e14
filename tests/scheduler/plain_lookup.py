"""Prompt lookup by looking everywhere, with which the index is compared."""

from collections.abc import Sequence

from glinthawk.scheduler.prompt_lookup import FEWEST, MOST_ALIKE, MOST_PLACES, bucket_of

__all__ = ["plain_guess"]


def plain_guess(text: Sequence[int], most: int, num_buckets: int) -> tuple[int, ...]:
    """Of the latest places in the bucket of the last tokens, what follows the longest likeness."""

    def bucket(end: int) -> int:
        return bucket_of(*text[end - FEWEST : end], num_buckets)

    def likeness(place: int) -> int:
        lengths = range(min(place, MOST_ALIKE) + 1)
        return max(n for n in lengths if text[place - n : place] == text[len(text) - n :])

    if len(text) < FEWEST:
        return ()
    places = [p for p in range(FEWEST, len(text)) if bucket(p) == bucket(len(text))]
    latest = places[-MOST_PLACES:]
    best = max(latest, key=lambda place: (likeness(place), place), default=None)
    if best is None or likeness(best) < FEWEST:
        return ()
    whole = list(text)
    for offset in range(most):
        whole.append(whole[best + offset])
    return tuple(whole[len(text) :])
