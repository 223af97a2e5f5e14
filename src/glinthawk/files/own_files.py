"""Files that a run writes itself, which are no input of it even where they lie among its input."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from glinthawk.files.places import STANDARD, is_url, resolve_url

__all__ = ["is_own_file", "own_names"]

#: What may stand after an output's name: beside it, moved aside by --restart, or half
#: written.
_BESIDE = re.compile(
    r"(\.requests\.jsonl|\.results\.jsonl)?(\.\d+)?(\.source|\.journal|\.events|\.batches)?(\.new|\.before)?"
)


def own_names(places: Sequence[str]) -> tuple[str, ...]:
    """The full names of outputs, for ``is_own_file``; of ``-`` there is none."""
    return tuple(name for place in places if place != STANDARD for name in _full_names(place))


def is_own_file(name: str, own: Sequence[str]) -> bool:
    """Whether the file ``name`` is one of the outputs ``own``, or lies beside one for its sake."""
    return bool(own) and any(
        full.startswith(output) and _BESIDE.fullmatch(full, len(output)) is not None
        for full in _full_names(name)
        for output in own
    )


def _full_names(place: str) -> set[str]:
    """Two of a link: what is moved aside lies beside the link, and what is written where it leads
    to."""
    if is_url(place):
        system, name = resolve_url(place)
        return {str(system.unstrip_protocol(name))}
    path = Path(place)
    return {os.path.realpath(path), os.path.join(os.path.realpath(path.parent), path.name)}
