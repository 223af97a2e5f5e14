"""From where the hidden states of a run come: one link at a time."""

__all__ = ["Sources"]

#: Runs that are remembered; the one that was heard of first is forgotten for another.
_MOST_RUNS = 16


class Sources:
    """A later attempt of the node before takes an earlier one's place; a second link of one attempt
    is a copy of the first.

    >>> sources = Sources()
    >>> sources.admits(b"first", "run", 1), sources.admits(b"copy", "run", 1)
    (True, False)
    >>> sources.admits(b"second", "run", 2), sources.admits(b"first", "run", 1)
    (True, False)
    >>> sources.has(b"first", "run"), sources.has(b"second", "run"), sources.has(b"second", "other")
    (False, True, False)
    """

    def __init__(self) -> None:
        self._links: dict[str, tuple[int, bytes]] = {}

    def admits(self, client: bytes, run: str, attempt: int) -> bool:
        """Whether hidden states of ``run`` come from ``client`` from now on."""
        known, source = self._links.get(run, (-1, b""))
        if attempt <= known:
            return client == source
        self._links.pop(run, None)
        if len(self._links) >= _MOST_RUNS:
            del self._links[next(iter(self._links))]
        self._links[run] = (attempt, client)
        return True

    def has(self, client: bytes, run: str) -> bool:
        """Whether hidden states of ``run`` come from ``client``."""
        return run in self._links and self._links[run][1] == client
