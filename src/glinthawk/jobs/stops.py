"""Where the first stop string of a text begins, and what of the text is left before it."""

from collections.abc import Iterable, Sequence

__all__ = ["Piece", "spelled", "stop_span", "text_before"]

#: A piece of an answer, and whether it is shown: special tokens are not, but stops may name them.
Piece = tuple[str, bool]


def stop_span(text: str, stops: Iterable[str], immune: int) -> tuple[int, int] | None:
    """Start and end of the earliest stop string that ends after the first ``immune`` characters, or
    None; of several that start there, the shortest.

    >>> stop_span("a.b.c", ["."], immune=2)
    (3, 4)
    """
    # The first place where a string of length n can end after ``immune`` is immune + 1.
    found = [(text.find(stop, max(0, immune - len(stop) + 1)), len(stop)) for stop in stops]
    spans = ((start, start + length) for start, length in found if start >= 0)
    return min(spans, default=None)


def spelled(pieces: Iterable[Piece]) -> str:
    """All pieces, shown or not: what stop strings are looked for in."""
    return "".join(text for text, _ in pieces)


def text_before(pieces: Sequence[Piece], end: int) -> str:
    """What is shown of the first ``end`` characters of ``pieces``.

    >>> text_before([("a", True), ("<end>", False), ("bc", True)], 7)
    'ab'
    """
    kept = []
    for text, is_shown in pieces:
        if is_shown:
            kept.append(text[: max(0, end)])
        end -= len(text)
    return "".join(kept)
