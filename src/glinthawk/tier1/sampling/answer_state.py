"""Where one answer stands in its grammar."""

from collections.abc import Callable

from llguidance import LLMatcher

__all__ = ["AnswerState", "consume"]


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
        if new == ahead and not is_behind:
            return True
        if new[: len(ahead)] == ahead and not is_behind:
            consume(self.matcher, new[len(ahead) :])
        else:
            self.matcher = self._begin()
            consume(self.matcher, output)
        return False

    def expect(self, token: int) -> bool:
        """``token`` is likely to come next. Whether the matcher is to be told of it, by the
        caller: one that is complete takes no more."""
        if self.matcher.is_stopped():
            return False
        self._ahead.append(token)
        return True


def consume(matcher: LLMatcher, tokens: list[int]) -> None:
    """What comes once the answer is complete is no part of it."""
    for token in tokens:
        if not matcher.is_stopped():
            matcher.consume_token(token)
