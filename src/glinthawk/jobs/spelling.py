"""What one token is called, and its bytes."""

import re
from functools import cached_property
from typing import Any

from glinthawk.jobs.detokenize import UNFINISHED, Detokenizer

__all__ = ["Spelling"]

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Spelling:
    """Tokens on their own, as they read in the middle of a text."""

    def __init__(self, tokenizer: Any, detokenizer: Detokenizer) -> None:
        self._tokenizer = tokenizer
        self._detokenizer = detokenizer
        self._texts: dict[int, str] = {}

    def text(self, token: int) -> str:
        """What a token says, special or not; U+FFFD for a part of a character."""
        if token not in self._texts:
            self._texts[token] = self._spell(token)
        return self._texts[token]

    def name(self, token: int) -> str:
        """Like ``text``, but parts of characters are told apart as OpenAI does: bytes:\\xf0."""
        text = self.text(token)
        raw = self._exact(token)
        if raw is None or UNFINISHED not in text:
            return text
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def raw(self, token: int, text: str) -> list[int] | None:
        """A token's bytes, where ``text`` is what it says. None if they are not known."""
        raw = self._exact(token)
        if raw is not None:
            return list(raw)
        return (
            None
            if UNFINISHED in text and UNFINISHED not in self._piece(token)
            else [*text.encode()]
        )

    def _spell(self, token: int) -> str:
        decoder = self._detokenizer
        if token in decoder.special:
            return decoder.special[token]
        # Behind a letter, as decoders may swallow the spaces of a text's first token.
        letter = self._tokenizer.encode("a", add_special_tokens=False)[-1:]
        return decoder.decode([*letter, token]).removeprefix(decoder.decode(letter))

    def _piece(self, token: int) -> str:
        return str(self._tokenizer.convert_ids_to_tokens(token) or "")

    def _exact(self, token: int) -> bytes | None:
        """Bytes of a token that stands for bytes and not for characters."""
        piece = self._piece(token)
        if self._decodes_by("ByteLevel") and all(letter in _ALPHABET for letter in piece):
            return bytes(_ALPHABET[letter] for letter in piece)
        match = _BYTE_TOKEN.fullmatch(piece) if self._decodes_by("ByteFallback") else None
        return bytes.fromhex(match[1]) if match else None

    def _decodes_by(self, kind: str) -> bool:
        return f'"{kind}"'.encode() in self._decoders

    @cached_property
    def _decoders(self) -> bytes:
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        decoder = getattr(backend, "decoder", None)
        return bytes(decoder.__getstate__()) if decoder is not None else b""


def _alphabet() -> dict[str, int]:
    """GPT-2's letters for bytes: printable ones are themselves, others follow from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + i): byte for i, byte in enumerate(others)
    }


_ALPHABET = _alphabet()
