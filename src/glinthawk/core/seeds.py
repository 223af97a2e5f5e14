"""Seeds of answers: they depend on the request alone, never on what runs beside it."""

import hashlib
import struct

from glinthawk.core.sampling import SamplingParams

__all__ = ["choice_seed"]


def choice_seed(run_seed: int, params: SamplingParams, name: str, index: int) -> int:
    """A 64-bit seed for choice ``index`` of the request called ``name``.

    A request with a seed of its own gets that plus ``index``, as in vLLM.
    """
    if params.seed is not None:
        # Choice 0 has the seed as given; the others wrap around in 64 bits with a sign.
        return (params.seed + index + 2**63) % 2**64 - 2**63
    key = struct.pack("<qq", run_seed, index) + name.encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1
