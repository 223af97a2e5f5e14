"""Addresses: ``inproc://name``, ``ipc:///path`` and ``tcp://host:port?key=PUBLIC_KEY``."""

import ipaddress
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from glinthawk.core.errors import AddressError
from glinthawk.wire.keys import check_key

__all__ = ["Address"]


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address. ``key`` is the worker's public key and only goes with tcp."""

    scheme: str
    endpoint: str
    host: str = ""
    key: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Raises AddressError that shows the three forms."""
        try:
            parts = urlsplit(text)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme in ("inproc", "ipc") and (parts.netloc or parts.path):
            return cls(parts.scheme, text)
        if parts.scheme == "tcp":
            return cls._parse_tcp(text)
        raise AddressError(
            f"{text!r} is not an address; write tcp://host:port, ipc:///path or inproc://name"
        )

    @classmethod
    def _parse_tcp(cls, text: str) -> "Address":
        parts = urlsplit(text)
        query = parse_qs(parts.query, keep_blank_values=True)
        try:
            port = parts.port
        except ValueError:
            port = None
        if not parts.hostname or port is None or parts.path or query.keys() - {"key"}:
            raise AddressError(f"{text!r} is not an address; write tcp://host:port?key=PUBLIC_KEY")
        key = check_key(query["key"][0]) if "key" in query else None
        return cls("tcp", f"tcp://{parts.netloc}", parts.hostname, key)

    @property
    def text(self) -> str:
        """As it was written."""
        return f"{self.endpoint}?key={self.key}" if self.key else self.endpoint

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.scheme != "tcp" or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
