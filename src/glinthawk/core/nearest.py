"""What somebody may have meant who misspelt a name."""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["advise_name"]


def advise_name(name: str, known: Iterable[str], otherwise: str) -> str:
    """A clause for an error: the nearest of ``known``; or ``otherwise``, if none is near."""
    spelt = {one.lower(): one for one in known}
    near = get_close_matches(name.lower(), spelt, n=1, cutoff=0.7)
    return f"did you mean {spelt[near[0]]}?" if near else otherwise
