"""What a simulated run came to."""

from bisect import bisect_left
from dataclasses import dataclass, field

from glinthawk.core.plan import Plan

__all__ = ["Outcome"]


@dataclass(slots=True)
class Outcome:
    """Seconds are those of the virtual clock."""

    plan: Plan
    seconds: float = 0.0
    prompt_tokens: int = 0
    num_preemptions: int = 0
    #: Most sequences that held KV at one time.
    most_living: int = 0
    #: Shares of the time, by slice; of workers, by slice and worker; of links, in the busier
    #: direction.
    tier1_busy: list[float] = field(default_factory=list)
    tier2_busy: list[float] = field(default_factory=list)
    #: Of workers that have drives.
    drives_busy: list[float] = field(default_factory=list)
    link_busy: list[float] = field(default_factory=list)
    #: (seconds, tokens generated so far), after each step; and sequences that had ended.
    progress: list[tuple[float, int]] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    #: Seconds and tokens when nothing waited any more.
    _all_begun: tuple[float, int] | None = None

    @property
    def tokens(self) -> int:
        """Generated."""
        return self.progress[-1][1] if self.progress else 0

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens a second, over the whole run."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def steady_tokens_per_s(self) -> float:
        """As in a job that never ends: from the time that as many sequences had ended as ever lived
        together until the last one begins; of a run that is too short for that, the whole."""
        first = bisect_left(self.ended, self.most_living)
        if self._all_begun is None or first == len(self.ended):
            return self.tokens_per_s
        (begin_s, begin), (end_s, end) = self.progress[first], self._all_begun
        return (end - begin) / (end_s - begin_s) if end_s > 1.2 * begin_s else self.tokens_per_s

    def stepped(self, at_s: float, num_tokens: int, num_living: int, num_ended: int) -> None:
        """A step is done, in which ``num_ended`` sequences ended; ``num_living`` were there."""
        self.progress.append((at_s, self.tokens + num_tokens))
        self.ended.append((self.ended[-1] if self.ended else 0) + num_ended)
        self.most_living = max(self.most_living, num_living)

    def all_begun(self, at_s: float) -> None:
        """Nothing waits."""
        if self._all_begun is None:
            self._all_begun = (at_s, self.tokens)
