"""What a simulated run came to."""

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
    #: Shares of the time, by slice; of workers, by slice and worker.
    tier1_busy: list[float] = field(default_factory=list)
    tier2_busy: list[float] = field(default_factory=list)
    link_busy: list[float] = field(default_factory=list)
    #: (seconds, tokens generated so far), after each step.
    progress: list[tuple[float, int]] = field(default_factory=list)
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
        """As in a job that never ends: from the time that half of all requests that ever lived
        together had begun to answer until the last one begins; of a shorter run, the whole."""
        end = self._all_begun
        begin = next((one for one in self.progress if one[1] >= 2 * self.most_living), None)
        if begin is None or end is None or end[0] < 1.5 * begin[0]:
            return self.tokens_per_s
        return (end[1] - begin[1]) / (end[0] - begin[0])

    def stepped(self, at_s: float, num_tokens: int, num_living: int) -> None:
        """A step is done."""
        self.progress.append((at_s, self.tokens + num_tokens))
        self.most_living = max(self.most_living, num_living)

    def all_begun(self, at_s: float) -> None:
        """Nothing waits."""
        if self._all_begun is None:
            self._all_begun = (at_s, self.tokens)
