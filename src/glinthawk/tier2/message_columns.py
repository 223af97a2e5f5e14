"""Spans and views of a message as three lists each, checked."""

from glinthawk.core.errors import WireError
from glinthawk.wire.messages import Spans, View

__all__ = ["Columns", "list_spans", "list_view"]

#: sequences, starts, lengths; of a view: sequences, firsts, ends.
Columns = tuple[list[int], list[int], list[int]]


def list_view(view: View) -> Columns:
    """The three lists of ``view``. Raises WireError."""
    columns = (view.sequences, view.firsts, view.ends)
    if len({len(column) for column in columns}) != 1:
        raise WireError("a view needs as many sequences as firsts and ends")
    return columns


def list_spans(spans: Spans) -> Columns:
    """The three lists of ``spans``. Raises WireError."""
    columns = (spans.sequences, spans.starts, spans.lengths)
    if len({len(column) for column in columns}) != 1:
        raise WireError("spans need as many sequences as starts and lengths")
    if any(not 0 <= start < 2**31 for start in spans.starts):
        raise WireError("a span starts below 0 or too far")
    if any(not 0 < length < 2**31 for length in spans.lengths):
        raise WireError("a span has no tokens or too many")
    return columns
