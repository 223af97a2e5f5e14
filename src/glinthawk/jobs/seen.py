"""Which custom_ids stand on earlier lines: 12 bytes a line, and never a wrong word.

An id may be long and there may be many million, so none is kept: a table of 64-bit entries says
where in the input each one stands, with as many bits of its hash as that leaves free (24 in an
input of a terabyte). Where those bits are equal too, the id is read from the input again, so two
ids of one hash are never confused. The hash is Python's own for strings, keyed anew in each
process: nobody can write an input whose ids all collide.
"""

from array import array
from collections.abc import Callable

from glinthawk.core.errors import JournalError

__all__ = ["SeenIds"]

_64_BITS = (1 << 64) - 1


class SeenIds:
    """A set of at most ``most`` ids that stand in an input of ``num_bytes``.

    ``id_at`` reads the id of the line that begins at an offset.
    """

    def __init__(
        self,
        most: int,
        num_bytes: int,
        id_at: Callable[[int], str | None],
        hash_of: Callable[[str], int] = hash,
    ) -> None:
        self._id_at, self._hash_of = id_at, hash_of
        self._room = most
        # Open addressing, two thirds full at the end: 2 looks for an id on average. An entry is
        # one more than the offset, so that 0 is a free slot, below as much hash as there is room.
        self._slots = array("Q", [0]) * (most + most // 2 + 1)
        self._offset_mask = (1 << num_bytes.bit_length()) - 1
        self._hash_mask = _64_BITS ^ self._offset_mask

    def add(self, custom_id: str, offset: int) -> bool:
        """Note the id of the line at ``offset``; whether it is the first of its name.

        Raises JournalError if there are more than ``most``: the input is another one by now.
        """
        slots, hash_mask = self._slots, self._hash_mask
        hashed = self._hash_of(custom_id) & _64_BITS
        slot = hashed % len(slots)
        while entry := slots[slot]:
            if not (entry ^ hashed) & hash_mask and self._is_at(custom_id, entry):
                return False
            slot = slot + 1 if slot + 1 < len(slots) else 0
        if not self._room:
            raise JournalError(
                "the input has changed while the job ran; put the old one back and run the same "
                "command again"
            )
        self._room -= 1
        slots[slot] = hashed & hash_mask | offset + 1
        return True

    def _is_at(self, custom_id: str, entry: int) -> bool:
        return self._id_at((entry & self._offset_mask) - 1) == custom_id
