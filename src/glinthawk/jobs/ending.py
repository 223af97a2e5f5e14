"""Whether an answer has come to a stop string, and its text before that."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

from glinthawk.core.sampling import SamplingParams
from glinthawk.jobs.detokenize import UNFINISHED, Detokenizer
from glinthawk.jobs.spelling import Spelling
from glinthawk.jobs.stops import Piece, spelled, stop_span, text_before

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

    def named(self, params: SamplingParams) -> Mapping[int, str]:
        """Special tokens that are part of a text, with their spelling: those that stand in a stop
        string, or all of them where they are shown."""
        return self._named_by(tuple(params.stop), params.skip_special_tokens)

    def is_near(self, prompt: Sequence[int], output: Sequence[int], params: SamplingParams) -> bool:
        """Whether a stop string seems to be in the last tokens; ``cut`` confirms it."""
        named = self.named(params)
        newest = len(named.get(output[-1]) or self._spelling.text(output[-1]))
        tail = self._tail(prompt, output, named, newest + max(map(len, params.stop)) + _SLACK)
        return any(stop in tail for stop in params.stop)

    def cut(
        self, prompt: Sequence[int], output: Sequence[int], params: SamplingParams
    ) -> str | None:
        """Text before the earliest stop string, or with it if ``params`` say so; None where there
        is none."""
        pieces, span = self._find(prompt, output, params)
        if span is None:
            return None
        return text_before(pieces, span[params.include_stop_str_in_output])

    def stop_string(
        self, prompt: Sequence[int], output: Sequence[int], params: SamplingParams
    ) -> str | None:
        """The earliest stop string; None where there is none."""
        pieces, span = self._find(prompt, output, params)
        return None if span is None else spelled(pieces)[slice(*span)]

    def _find(
        self, prompt: Sequence[int], output: Sequence[int], params: SamplingParams
    ) -> tuple[list[Piece], tuple[int, int] | None]:
        """The text, and where in it the earliest stop string is."""
        named = self.named(params)
        pieces = self._pieces(prompt, output, named, not params.skip_special_tokens)
        # What stands in the first min_tokens tokens ends nothing.
        immune = len(spelled(self._pieces(prompt, output[: params.min_tokens], named)))
        return pieces, stop_span(spelled(pieces), params.stop, immune)

    def whole(self, prompt: Sequence[int], output: Sequence[int], params: SamplingParams) -> str:
        """All of the text."""
        if params.skip_special_tokens:
            return self._detokenizer.after(prompt, output)
        return spelled(self._pieces(prompt, output, self._detokenizer.special))

    def _find_named(self, stops: tuple[str, ...], only_stops: bool) -> dict[int, str]:
        special = self._detokenizer.special.items()
        return {
            token: name
            for token, name in special
            if not only_stops or any(name in stop for stop in stops)
        }

    def _pieces(
        self,
        prompt: Sequence[int],
        output: Sequence[int],
        named: Mapping[int, str],
        shows_named: bool = False,
    ) -> list[Piece]:
        """Text of ``output`` with the ``named`` tokens spelled where they stand."""
        pieces: list[Piece] = []
        begin = 0
        for end in [i for i, token in enumerate(output) if token in named]:
            shown = self._detokenizer.after([*prompt, *output[:begin]], output[begin:end])
            pieces += [(shown, True), (named[output[end]], shows_named)]
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
