"""Who may talk to whom over TCP: CURVE key pairs, kept in a file, written in hexadecimal; and
passwords, where a network is trusted."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import zmq
from zmq.utils import z85

from glinthawk.core.errors import AddressError

__all__ = [
    "Identity",
    "check_key",
    "check_password",
    "default_identity_path",
    "load_password",
    "to_z85",
]

_KEY = re.compile(r"[0-9a-f]{64}")
#: What ZeroMQ takes.
_PASSWORD_BYTES = 255


def default_identity_path() -> Path:
    """Where a user's key pair lives."""
    return Path.home() / ".config" / "glinthawk" / "identity.json"


def check_key(text: str) -> str:
    """``text`` if it is a public key. Raises AddressError."""
    if not _KEY.fullmatch(text):
        raise AddressError(
            f"{text!r} is not a key: 64 hexadecimal digits, as `glinthawk keygen` prints them"
        )
    return text


def check_password(text: str) -> str:
    """``text`` if it can be a password. Raises AddressError that does not show it."""
    if not 0 < len(text.encode(errors="replace")) <= _PASSWORD_BYTES or not text.isprintable():
        raise AddressError(
            f"a password has 1 to {_PASSWORD_BYTES} bytes of printable text; "
            "`openssl rand -hex 32` makes a good one"
        )
    return text


def load_password(path: Path) -> str:
    """The password in the first line of ``path``, without the blanks around it."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AddressError(f"cannot read the password in {path}: {error}") from None
    return check_password(lines[0].strip() if lines else "")


@dataclass(frozen=True, slots=True)
class Identity:
    """A CURVE key pair; ``public`` is what others are told."""

    public: str
    secret: str

    @classmethod
    def create(cls) -> "Identity":
        """A fresh pair that is kept nowhere."""
        public, secret = zmq.curve_keypair()
        return cls(z85.decode(public).hex(), z85.decode(secret).hex())

    @classmethod
    def load(cls, path: Path | None = None) -> "Identity":
        """The pair in ``path`` (default: this user's), made at first use, readable by its owner."""
        path = path or default_identity_path()
        if not path.exists():
            _write_private(path, cls.create())
        try:
            fields = json.loads(path.read_text())
            return cls(check_key(fields["public"]), check_key(fields["secret"]))
        except (ValueError, KeyError, TypeError, AddressError):
            # Without the cause: it would show what may be a secret.
            raise AddressError(f"{path} holds no key pair; move it away and try again") from None

    def as_z85(self) -> tuple[bytes, bytes]:
        """(public, secret) as ZeroMQ takes them."""
        return to_z85(self.public), to_z85(self.secret)


def to_z85(key: str) -> bytes:
    """A hexadecimal key as ZeroMQ takes it."""
    return z85.encode(bytes.fromhex(key))


def _write_private(path: Path, identity: Identity) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_suffix(f".{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"public": identity.public, "secret": identity.secret}, file)
    try:
        os.link(draft, path)  # the first of two processes that start together wins
    except FileExistsError:
        pass
    finally:
        draft.unlink()
