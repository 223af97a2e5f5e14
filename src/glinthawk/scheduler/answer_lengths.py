"""How long answers are expected to be, learned from those that have ended."""

import numpy as np
from numpy.typing import NDArray

from glinthawk.core.sequence import Sequence

__all__ = ["AnswerLengths"]

#: Below this many ended answers the mean says little; every answer is taken to be the longest.
_ENOUGH = 16


class AnswerLengths:
    """A running mean of the share of ``max_tokens`` that answers use."""

    def __init__(self) -> None:
        #: Answers learned from.
        self.num_ended = 0
        self._share_sum = 0.0

    def ended(self, sequence: Sequence) -> None:
        """Learn from an answer, where there was to be one."""
        if not sequence.request.max_tokens:
            return
        self.num_ended += 1
        self._share_sum += len(sequence.output) / sequence.request.max_tokens

    def expect_remaining(self, sequence: Sequence) -> int:
        """Tokens that ``sequence`` is expected to still produce, from 1 to its maximum."""
        longest = sequence.request.max_tokens
        produced = len(sequence.output)
        if self.num_ended < _ENOUGH or not sequence.request.stop_ids:
            return longest - produced or 1
        # One that outlived the mean is expected to go on for another quarter of its length.
        mean = longest * self._share_sum / self.num_ended
        expected = int(max(mean * 1.1, produced * 1.25)) + 1
        return max(1, min(expected, longest) - produced)

    def expect_all(
        self, longest: NDArray[np.int64], produced: NDArray[np.int64], may_stop: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """``expect_remaining`` of many: their ``max_tokens``, what they have, and whether a token
        may end them. The same operations in the same order, so the same numbers."""
        remaining: NDArray[np.int64] = np.maximum(1, longest - produced)
        if self.num_ended >= _ENOUGH:
            mean = longest * self._share_sum / self.num_ended
            expected = np.maximum(mean * 1.1, produced * 1.25).astype(np.int64) + 1
            sooner = np.maximum(1, np.minimum(expected, longest) - produced)
            remaining = np.where(may_stop, sooner, remaining)
        return remaining
