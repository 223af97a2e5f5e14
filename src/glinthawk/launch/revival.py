"""When a process that has died is started again, and when no more."""

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Fate", "Revival"]

_FIRST_S, _LONGEST_S = 0.5, 30.0
#: Deaths in a row after which another start would only be another death.
_MOST_DEATHS = 8


class Fate(NamedTuple):
    """Of a process that has died and not worked since."""

    #: How it ended, and what it said last.
    words: str
    #: Whether it is not started again.
    is_over: bool


@dataclass(slots=True)
class Revival:
    """Of one process; times are those of one clock, in seconds.

    >>> revival = Revival()
    >>> revival.died(1.0, "it fell")
    >>> revival.is_due(now_s=1.2), revival.is_due(now_s=1.5)
    (False, True)
    """

    #: In a row, without having worked between them.
    deaths: int = 0
    #: Not before then; None while it lives.
    next_s: float | None = None
    words: str = ""

    @property
    def is_over(self) -> bool:
        """Whether it is given up."""
        return self.deaths >= _MOST_DEATHS

    @property
    def is_known(self) -> bool:
        """Whether its death has been taken in."""
        return self.next_s is not None

    @property
    def fate(self) -> Fate | None:
        """None for one that has never died, or has worked since."""
        return Fate(self.words, self.is_over) if self.deaths else None

    @property
    def outlook(self) -> str:
        """What becomes of it."""
        if self.is_over:
            return f"it died {self.deaths} times without having worked, and is not started again"
        return "starting another one"

    def died(self, now_s: float, words: str) -> None:
        """It waits twice as long after every death in a row."""
        self.next_s = now_s + min(_LONGEST_S, _FIRST_S * 2**self.deaths)
        self.deaths += 1
        self.words = words

    def is_due(self, now_s: float) -> bool:
        """Whether it is to be started now."""
        return not self.is_over and self.next_s is not None and now_s >= self.next_s

    def started(self) -> None:
        """It lives again."""
        self.next_s = None

    def worked(self) -> None:
        """It has done some of what it was started for: what ends it now is no fault of its start,
        nor of its opening. What the dead did before is no news."""
        if not self.is_known:
            self.deaths, self.words = 0, ""
