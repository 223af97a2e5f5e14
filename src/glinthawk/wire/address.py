"""Addresses: ``inproc://name``, ``ipc:///path``, ``tcp://host:port?key=PUBLIC_KEY`` and, on a
network where everybody is trusted, ``tcp+plain://host:port?password=PASSWORD``."""

import ipaddress
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qs, quote, urlsplit

from glinthawk.core.errors import AddressError
from glinthawk.wire.keys import check_key, check_password

__all__ = ["PRIVATE_FOLDER", "Address"]

#: How the folders begin that a run makes for its workers' sockets.
PRIVATE_FOLDER = "glinthawk-run-"

#: What may follow a tcp address.
_QUERIES = {"tcp": "key", "tcp+plain": "password"}


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address; ``endpoint`` is what ZeroMQ calls it. ``key`` is the worker's public key
    and only goes with tcp, ``password`` only with tcp+plain, where nothing is encrypted."""

    scheme: str
    endpoint: str
    host: str = ""
    key: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Raises AddressError that shows the forms, and no password."""
        try:
            parts = urlsplit(text)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme in ("inproc", "ipc") and (parts.netloc or parts.path):
            return cls(parts.scheme, text)
        if parts.scheme in _QUERIES:
            return cls._parse_tcp(text, parts)
        raise AddressError(
            f"{_shown(text)} is not an address; write tcp://host:port, ipc:///path or inproc://name"
        )

    @classmethod
    def _parse_tcp(cls, text: str, parts: SplitResult) -> "Address":
        name = _QUERIES[parts.scheme]
        # A plus sign is itself here, not a space.
        query = parse_qs(parts.query.replace("+", "%2B"), keep_blank_values=True)
        rest = parts.path or parts.fragment or "@" in parts.netloc or query.keys() - {name}
        if not parts.hostname or _port(parts) is None or rest:
            raise AddressError(
                f"{_shown(text)} is not an address; write tcp://host:port?key=PUBLIC_KEY "
                "or tcp+plain://host:port?password=PASSWORD (no encryption; /, #, & and % as %2F, "
                "%23, %26 and %25)"
            )
        value = query[name][0] if name in query else None
        endpoint = f"tcp://{parts.netloc}"
        if value is None:
            return cls(parts.scheme, endpoint, parts.hostname)
        if name == "key":
            return cls(parts.scheme, endpoint, parts.hostname, key=check_key(value))
        return cls(parts.scheme, endpoint, parts.hostname, password=check_password(value))

    @property
    def text(self) -> str:
        """As it was written, password included."""
        if self.key is not None:
            return f"{self.endpoint}?key={self.key}"
        if self.password is not None:
            return f"tcp+plain{self.endpoint[3:]}?password={quote(self.password, safe='')}"
        return self.endpoint

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if not self.host or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def _port(parts: SplitResult) -> int | None:
    try:
        return parts.port
    except ValueError:
        return None


def _shown(text: str) -> str:
    """``text`` without what may be a password."""
    place, mark, _ = text.partition("?")
    return repr(place + mark + "..." if mark else place)
