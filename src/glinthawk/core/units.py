"""Sizes as people write them: ``4GiB`` in, bytes out, and back."""

import re

from glinthawk.core.errors import UsageError

__all__ = ["Size", "format_size", "is_text_or_bytes", "parse_size"]

#: Bytes, or text such as 4GiB.
Size = int | str

_FACTORS = {
    "": 1,
    "b": 1,
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", start=1)},
    **{f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", start=1)},
    **{prefix: 1024**power for power, prefix in enumerate("kmgt", start=1)},
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)


def is_text_or_bytes(value: object) -> bool:
    """Whether ``value``, from a file or a caller, has a type that ``parse_size`` takes."""
    return isinstance(value, Size) and not isinstance(value, bool)


def parse_size(text: Size) -> int:
    """Bytes of ``text``: ``"4GiB"``, ``"512MB"``, ``"2g"`` (binary) or a plain number.

    Raises UsageError with an example for anything else.
    """
    if isinstance(text, int):
        return text
    match = _SIZE.fullmatch(text)
    factor = _FACTORS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise UsageError(f"{text!r} is not a size; write it like 4GiB, 512MiB or 0")
    return int(float(match[1]) * factor)


def format_size(num_bytes: float) -> str:
    """``num_bytes`` in the largest binary unit that keeps it at one or more: ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(num_bytes) < 1024:
            return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"
