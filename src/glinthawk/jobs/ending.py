"""Whether an answer has come to a stop string, and its text before that."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

from glinthawk.core.sampling import SamplingParams
from glinthawk.jobs.detokenize import UNFINISHED, Detokenizer
from glinthawk.jobs.spelling import Spelling
from glinthawk.jobs.stops import Piece, spelled, stop_start, text_before

__all__ = ["Ending"]

#: The first characters of a tail of tokens may be wrong: a cut character, a swallowed space.
_SLACK = 8


class Ending:
    """Finds stop strings. One may name special tokens, which a text does not show."""

    def __init__(self, detokenizer: Detokenizer, spelling: Spelling) -> None:
        self._detokenizer = detokenizer
        self._spelling = spelling
        # Looked up after every token.
        self._named_by = lru_cache(maxsize=256)(self._find_named)

    def named(self, stops: Sequence[str]) -> Mapping[int, str]:
        """Special tokens that stand in one of ``stops``, with their spelling."""
        return self._named_by(tuple(stops))

    def is_near(self, prompt: Sequence[int], output: Sequence[int], params: SamplingParams) -> bool:
        """Whether a stop string seems to be in the last tokens; ``cut`` confirms it."""
        named = self.named(params.stop)
        newest = len(named.get(output[-1]) or self._spelling.text(output[-1]))
        tail = self._tail(prompt, output, named, newest + max(map(len, params.stop)) + _SLACK)
        return any(stop in tail for stop in params.stop)

    def cut(
        self, prompt: Sequence[int], output: Sequence[int], params: SamplingParams
    ) -> str | None:
        """Text before the earliest stop string; None where there is none."""
        named = self.named(params.stop)
        pieces = self._pieces(prompt, output, named)
        # What stands in the first min_tokens tokens ends nothing.
        immune = len(spelled(self._pieces(prompt, output[: params.min_tokens], named)))
        start = stop_start(spelled(pieces), params.stop, immune)
        return None if start is None else text_before(pieces, start)

    def _find_named(self, stops: tuple[str, ...]) -> dict[int, str]:
        special = self._detokenizer.special.items()
        return {token: name for token, name in special if any(name in stop for stop in stops)}

    def _pieces(
        self, prompt: Sequence[int], output: Sequence[int], named: Mapping[int, str]
    ) -> list[Piece]:
        """Text of ``output`` with the ``named`` tokens spelled where they stand."""
        pieces: list[Piece] = []
        begin = 0
        for end in [i for i, token in enumerate(output) if token in named]:
            shown = self._detokenizer.after([*prompt, *output[:begin]], output[begin:end])
            pieces += [(shown, True), (named[output[end]], False)]
            begin = end + 1
        return [
            *pieces,
            (self._detokenizer.after([*prompt, *output[:begin]], output[begin:]), True),
        ]

    def _tail(
        self,
        prompt: Sequence[int],
        output: Sequence[int],
        named: Mapping[int, str],
        num_chars: int,
    ) -> str:
        """Text of the last tokens, at least ``num_chars`` of it where there is so much."""

        def last(count: int) -> str:
            if count >= len(output):
                return spelled(self._pieces(prompt, output, named))
            return spelled(self._pieces((), output[-count:], named))

        count = num_chars // 3 + 4
        text = last(count)
        while len(text) < num_chars and count < len(output):
            count *= 2
            text = last(count)
        # Byte fallback spoils a whole run of bytes that begins inside a character of 2 to 4 bytes.
        for more in range(count + 1, min(count + 4, len(output) + 1)):
            if not text.startswith(UNFINISHED):
                break
            text = last(more)
        return text
