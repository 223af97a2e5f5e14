"""From token ids back to text: what an answer adds to its prompt, whole and token by token."""

from collections.abc import Sequence
from functools import cached_property
from itertools import takewhile
from typing import Any

__all__ = ["UNFINISHED", "Detokenizer"]

#: What a decoder writes for bytes that are no character, or none yet.
UNFINISHED = "\ufffd"

#: Tokens before an answer that are decoded with it. Further ones are tried as they are, since a
#: tail may begin inside a character of up to four bytes.
_CONTEXT = (8, 9, 10, 11)

#: A character has four bytes at most: more unfinished tokens than this are not one.
_LONGEST_WAIT = 8


class Detokenizer:
    """Decodes as transformers does: special tokens are left out, spaces are left as they are.

    A decoder may treat the first token of a text differently: that of Llama 2 swallows its space.
    So the text of an answer is that of prompt and answer without that of the prompt.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def special(self) -> dict[int, str]:
        """Spelling of each token that is not shown in a text, by id."""
        added = getattr(self._tokenizer, "added_tokens_decoder", {})
        named = zip(
            self._tokenizer.all_special_ids, self._tokenizer.all_special_tokens, strict=True
        )
        return {id: str(token) for id, token in added.items() if token.special} | dict(named)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids`` as if nothing stood before them."""
        return str(
            self._tokenizer.decode(
                list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def after(self, before: Sequence[int], ids: Sequence[int]) -> str:
        """Text that ``ids`` add to that of ``before``."""
        context = self._context(before)
        return self._added(self.decode(context), [*context, *ids], ids)

    def pieces(self, before: Sequence[int], ids: Sequence[int]) -> list[str]:
        """What each of ``ids`` adds: together exactly ``after(before, ids)``.

        A character of several tokens is the last one's, and special tokens add nothing.
        """
        shown = [i for i, token in enumerate(ids) if token not in self.special]
        added = self._additions(before, [ids[i] for i in shown])
        pieces = [""] * len(ids)
        for i, piece in zip(shown, _fit(added, self.after(before, ids)), strict=True):
            pieces[i] = piece
        return pieces

    def _additions(self, before: Sequence[int], ids: Sequence[int]) -> list[str]:
        stream = [token for token in self._context(before) if token not in self.special]
        pieces = []
        # Decoded again with every token: from ``start``, of which up to ``read`` is told already.
        start, read = 0, len(stream)
        for token in ids:
            stream.append(token)
            whole = self.decode(stream[start:])
            waits = whole.endswith(UNFINISHED) and len(stream) - read <= _LONGEST_WAIT
            if waits:
                pieces.append("")
                continue
            told = self.decode(stream[start:read])
            pieces.append(self._added(told, stream[start:], stream[read:]))
            start, read = read, len(stream)
        return pieces

    def _context(self, before: Sequence[int]) -> Sequence[int]:
        """A tail of ``before`` after which tokens decode as after all of it."""
        for count in _CONTEXT:
            if count >= len(before):
                break
            text = self.decode(before[-count:])
            if text.strip() and not text.startswith(UNFINISHED):
                return before[-count:]
        return before

    def _added(self, told: str, ids: Sequence[int], new: Sequence[int]) -> str:
        """Text of ``ids`` behind ``told``; the ``new`` ones of them are what is not told."""
        whole = self.decode(ids)
        # The new tokens may finish a character that the others began.
        for known in (told, told.rstrip(UNFINISHED)):
            if whole.startswith(known):
                return whole[len(known) :]
        # Byte fallback spoils a whole run of bytes when one of them is unfinished.
        return self.decode(new)


def _fit(pieces: list[str], text: str) -> list[str]:
    """``pieces`` as far as ``text`` begins like them, and the last one with the rest of it."""
    alike = takewhile(lambda pair: pair[0] == pair[1], zip("".join(pieces), text, strict=False))
    left = sum(1 for _ in alike)
    rest = text[left:]
    fitted = []
    for piece in pieces:
        fitted.append(piece[:left])
        left -= len(fitted[-1])
    if fitted:
        fitted[-1] += rest
    return fitted
