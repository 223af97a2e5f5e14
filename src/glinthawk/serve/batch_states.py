"""The states of a batch, which never go back."""

__all__ = ["ENDED", "OPEN", "STAMPS", "may_follow"]

#: What may come after each.
_NEXT = {
    "validating": {"in_progress", "failed", "expired", "cancelling"},
    "in_progress": {"finalizing", "failed", "expired", "cancelling"},
    "finalizing": {"completed", "failed"},
    "cancelling": {"cancelled"},
    "completed": set[str](),
    "failed": set[str](),
    "expired": set[str](),
    "cancelled": set[str](),
}
#: The field that says when a state began; the first began with the batch.
STAMPS = {state: f"{state}_at" for state in _NEXT if state != "validating"}
#: In these, nothing is left to do.
ENDED = tuple(state for state, following in _NEXT.items() if not following)
#: In these, there is.
OPEN = tuple(state for state, following in _NEXT.items() if following)


def may_follow(state: str, following: str) -> bool:
    """Whether a batch in ``state`` may be in ``following`` next."""
    return following in _NEXT[state]
