"""Seeds of answers: they depend on the request alone, never on what runs beside it."""

import hashlib
import struct
from collections.abc import Sequence

from glinthawk.core.sampling import SamplingParams

__all__ = ["choice_seed"]


def choice_seed(
    run_seed: int, params: SamplingParams, name: str, index: int, prompt: Sequence[int]
) -> int:
    """A 64-bit seed for choice ``index`` of the request called ``name``.

    The seed that a request brings is mixed with its ``prompt``: one seed on all lines, a common
    habit, would give all of them the same random numbers otherwise. The same seed and prompt give
    the same answer, whatever the request is called.
    """
    if params.seed is not None:
        key = struct.pack(f"<qq{len(prompt)}q", params.seed, index, *prompt)
    else:
        key = struct.pack("<qq", run_seed, index) + name.encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1
