"""From where the hidden states of a run come: the links of its latest attempt."""

__all__ = ["Sources"]

#: Runs that are remembered; the one that was heard of first is forgotten for another.
_MOST_RUNS = 16
#: Links of an attempt that are heard.
_MOST_LINKS = 16


class Sources:
    """A later attempt of the node before takes an earlier one's place. A second link of one attempt
    is a copy of the first, or the first is a copy of it: which of them is heard first says nothing,
    and what both say is the same, so both are heard.

    >>> sources = Sources()
    >>> sources.admits(b"first", "run", 1), sources.admits(b"copy", "run", 1)
    (True, True)
    >>> sources.admits(b"second", "run", 2), sources.admits(b"first", "run", 1)
    (True, False)
    >>> sources.has(b"first", "run"), sources.has(b"second", "run"), sources.has(b"second", "other")
    (False, True, False)
    """

    def __init__(self) -> None:
        self._links: dict[str, tuple[int, set[bytes]]] = {}

    def admits(self, client: bytes, run: str, attempt: int) -> bool:
        """Whether hidden states of ``run`` come from ``client`` from now on."""
        known, links = self._links.get(run, (-1, set()))
        if attempt > known:
            self._begin(run, attempt, client)
        elif attempt == known and len(links) < _MOST_LINKS:
            links.add(client)
        return self.has(client, run)

    def has(self, client: bytes, run: str) -> bool:
        """Whether hidden states of ``run`` come from ``client``."""
        return run in self._links and client in self._links[run][1]

    def _begin(self, run: str, attempt: int, client: bytes) -> None:
        self._links.pop(run, None)
        if len(self._links) >= _MOST_RUNS:
            del self._links[next(iter(self._links))]
        self._links[run] = (attempt, {client})
