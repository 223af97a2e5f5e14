"""Line numbers, a bit each: 125 kB for a million lines."""

__all__ = ["LineSet"]


class LineSet:
    """A set that only grows."""

    def __init__(self) -> None:
        self._size = 0
        #: The first number after all of them.
        self.end = 0
        self._bits = bytearray()

    def __contains__(self, line: int) -> bool:
        byte = line >> 3
        return byte < len(self._bits) and bool(self._bits[byte] >> (line & 7) & 1)

    def __len__(self) -> int:
        return self._size

    def add(self, line: int) -> None:
        """Take in ``line``; raises ValueError if it is there already."""
        bits, byte, bit = self._bits, line >> 3, 1 << (line & 7)
        if byte >= len(bits):
            bits.extend(bytes(byte + 1 - len(bits)))
        if bits[byte] & bit:
            raise ValueError(f"line {line} is there already")
        bits[byte] |= bit
        self._size += 1
        if line >= self.end:
            self.end = line + 1
