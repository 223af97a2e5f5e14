"""Random numbers that a request's seed and a position alone decide."""

import hashlib
import struct

__all__ = ["uniform"]


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on nothing but ``seed`` and ``position``."""
    key = struct.pack("<qq", seed, position)
    bits = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
    return (bits >> 11) * 2.0**-53
