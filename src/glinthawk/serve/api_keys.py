"""Who may call: keys with names, and what belongs to whom."""

import hashlib
import hmac
import re
from collections.abc import Iterable

from glinthawk.core.errors import UsageError

__all__ = ["ApiKeys"]

#: A key may have = at its end.
_NAMED = re.compile(r"([A-Za-z0-9_.-]{1,64})=(.*[^=].*)", re.DOTALL)


class ApiKeys:
    """``given`` are NAME=KEY or KEY, whose name is made of the key; with none, all may call.
    Raises UsageError.

    >>> keys = ApiKeys(["alice=secret"])
    >>> keys.owner_of("Bearer secret"), keys.owner_of("Bearer guess")
    ('alice', None)
    """

    def __init__(self, given: Iterable[str]) -> None:
        self._owners: dict[bytes, str] = {}
        for entry in given:
            named = _NAMED.fullmatch(entry)
            name, key = named.groups() if named else (_digest(entry).hex()[:12], entry)
            if not key.strip() or not key.isprintable() or not key.isascii():
                raise UsageError("--api-key: a key has printable letters of ASCII; give another")
            if _digest(key) in self._owners:
                raise UsageError("--api-key: two names have one key; give each its own")
            self._owners[_digest(key)] = name

    def owner_of(self, authorization: str | None) -> str | None:
        """The name of the key in a header; None if there is no such key."""
        if not self._owners:
            return ""
        scheme, _, key = (authorization or "").partition(" ")
        given = _digest(key.strip())
        owner = None
        # All are compared, and each takes the same time whatever is given.
        for digest, name in self._owners.items():
            if hmac.compare_digest(digest, given):
                owner = name
        return owner if scheme.lower() == "bearer" else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()
