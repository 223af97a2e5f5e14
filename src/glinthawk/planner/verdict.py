"""What a search came to, in a sentence."""

from glinthawk.planner.plan_text import dollars, layout_of, number
from glinthawk.planner.search import Candidate, Found, Rank

__all__ = ["best_in_words", "compare_tiers", "dollars_of"]


def dollars_of(one: Candidate) -> str:
    """For a million tokens; with ~ before it where the speed is but estimated."""
    said = dollars(one.dollars_per_million)
    return said if one.steady or one.dollars_per_million is None else f"~{said}"


def best_in_words(found: Found) -> str:
    """The best plan, and what it makes."""
    best = found.best[0]
    how = "simulated" if best.steady else "estimated"
    says = f"{layout_of(best.plan)} makes {number(best.tokens_per_s)} tokens/s ({how})"
    if best.dollars_per_million is None:
        return says
    return f"{says} at {dollars(best.dollars_per_million)} dollars a million"


def compare_tiers(found: Found, rank: Rank) -> str | None:
    """One tier against two, plainly; None where only one of them was found."""
    one, two = (found.first(is_one_tier=is_one) for is_one in (True, False))
    if one is None or two is None:
        return None
    if rank == "cost" and one.dollars_per_million and two.dollars_per_million:
        ratio = one.dollars_per_million / two.dollars_per_million
        cheaper, times = ("one tier is", 1 / ratio) if ratio < 1 else ("two tiers are", ratio)
        return f"{cheaper} {times:.2f} times cheaper a token"
    ratio = two.tokens_per_s / one.tokens_per_s
    faster, times = ("one tier is", 1 / ratio) if ratio < 1 else ("two tiers are", ratio)
    return f"{faster} {times:.2f} times as fast"
