"""Where one answer stands in its grammar."""

from collections.abc import Callable

from llguidance import LLMatcher

__all__ = ["AnswerState"]


class AnswerState:
    """Follows an answer by its tokens alone; it may be a few tokens ahead of what is known to have
    come. ``begin`` makes a matcher at the answer's beginning."""

    def __init__(self, begin: Callable[[], LLMatcher]) -> None:
        self._begin = begin
        self.matcher = begin()
        self.has_failed = False
        self._num_known = 0
        self._ahead: list[int] = []

    def catch_up(self, output: list[int]) -> bool:
        """Take in all of ``output``. Whether the matcher stood there already, as what was taken in
        ahead is what came."""
        # In this case tokens were sampled that it never got: its batch was lost.
        is_behind = len(output) < self._num_known
        new, ahead = output[self._num_known :], self._ahead
        self._num_known, self._ahead = len(output), []
        if is_behind or new[: len(ahead)] != ahead:
            self.matcher = self._begin()
            _consume(self.matcher, output)
            return False
        _consume(self.matcher, new[len(ahead) :])
        return len(new) == len(ahead)

    def expect(self, token: int) -> bool:
        """``token`` is likely to come next. Whether the matcher is to be told of it, by the
        caller: one that is complete takes no more."""
        if self.matcher.is_stopped():
            return False
        self._ahead.append(token)
        return True


def _consume(matcher: LLMatcher, tokens: list[int]) -> None:
    """What comes once the answer is complete is no part of it."""
    for token in tokens:
        if not matcher.is_stopped():
            matcher.consume_token(token)
