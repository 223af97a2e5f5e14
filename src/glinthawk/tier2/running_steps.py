"""The steps of a session that are in progress."""

from glinthawk.core.errors import WireError
from glinthawk.tier2.running_step import RunningStep

__all__ = ["RunningSteps"]


class RunningSteps:
    """A sequence is in one of them at most: so they cannot pile up, nor pages change hands in
    one."""

    def __init__(self) -> None:
        self._steps: dict[int, RunningStep] = {}
        #: Sequences in a step, and which.
        self._stepping: dict[int, int] = {}

    def __contains__(self, step: int) -> bool:
        return step in self._steps

    def add(self, step: int, running: RunningStep) -> None:
        """Its sequences are resting."""
        self._steps[step] = running
        self._stepping.update(dict.fromkeys(running.sequences, step))

    def find(self, step: int) -> RunningStep:
        """Raises WireError for one that is not in progress."""
        try:
            return self._steps[step]
        except KeyError:
            raise WireError(f"step {step} has not begun") from None

    def remove(self, step: int) -> RunningStep:
        """It is over."""
        removed = self._steps.pop(step)
        for sequence in removed.sequences:
            del self._stepping[sequence]
        return removed

    def check_resting(self, sequences: list[int]) -> None:
        """Raise WireError if any of ``sequences`` is in a step."""
        for sequence in sequences:
            if sequence in self._stepping:
                raise WireError(
                    f"sequence {sequence} is in step {self._stepping[sequence]}; "
                    "finish or abandon that first"
                )

    def check_written(self, sequence: int, num_tokens: int) -> None:
        """Raise WireError if a step may yet write to the first tokens of ``sequence``."""
        step = self._stepping.get(sequence)
        if step is not None and num_tokens > self._steps[step].start_of(sequence):
            raise WireError(
                f"sequence {sequence} is in step {step}, which may write to its first "
                f"{num_tokens} tokens; finish or abandon that first"
            )
