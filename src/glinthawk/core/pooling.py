"""What of a prompt's hidden states a request asks for, in place of an answer."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["PooledRows", "Pooling"]

#: Which rows make a prompt's vector: their mean, if there are several.
PooledRows = Literal["last", "mean", "first"]


@dataclass(frozen=True, slots=True)
class Pooling:
    """Hidden states are those behind the model's last norm, of the ``rows``.

    With ``tokens``, their logits behind the last row are asked for instead.
    """

    rows: PooledRows = "last"
    tokens: tuple[int, ...] = ()

    def positions(self, length: int) -> range:
        """Of the rows, in a prompt of ``length`` tokens."""
        match self.rows:
            case "mean":
                return range(length)
            case "first":
                return range(1)
            case "last":
                return range(length - 1, length)
