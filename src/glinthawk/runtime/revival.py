"""When a process that has died is started again, and when no more."""

from dataclasses import dataclass

__all__ = ["Revival"]

_FIRST_S, _LONGEST_S = 0.5, 30.0
#: Deaths in a row after which another start would only be another death.
_MOST_DEATHS = 8


@dataclass(slots=True)
class Revival:
    """Of one process; times are those of one clock, in seconds.

    >>> revival = Revival()
    >>> revival.died(now_s=1.0)
    >>> revival.is_due(now_s=1.2), revival.is_due(now_s=1.5)
    (False, True)
    """

    #: In a row, without having served between them.
    deaths: int = 0
    #: Not before then; None while it lives.
    next_s: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether it is given up."""
        return self.deaths >= _MOST_DEATHS

    @property
    def is_known(self) -> bool:
        """Whether its death has been taken in."""
        return self.next_s is not None

    def died(self, now_s: float) -> None:
        """It waits twice as long after every death in a row."""
        self.next_s = now_s + min(_LONGEST_S, _FIRST_S * 2**self.deaths)
        self.deaths += 1

    def is_due(self, now_s: float) -> bool:
        """Whether it is to be started now."""
        return not self.is_over and self.next_s is not None and now_s >= self.next_s

    def started(self) -> None:
        """It lives again."""
        self.next_s = None

    def served(self) -> None:
        """It has done what it was started for, so what ends it now is no fault of its start."""
        self.deaths = 0
