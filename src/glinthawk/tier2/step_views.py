"""The views of a step: which tokens its rows see, where a worker has a part of each sequence."""

from collections.abc import Sequence

from glinthawk.core.errors import WireError
from glinthawk.tier2.message_columns import Columns, list_view
from glinthawk.tier2.pages.page_table import PageTable
from glinthawk.wire.messages import Begin, BeginPart

__all__ = ["check_views", "list_views"]

#: Pages that all rows of a step's views see together.
_MOST_SEEN = 1 << 27


def list_views(message: Begin, view_of: Sequence[int]) -> list[Columns]:
    """None if no row attends by one. ``view_of`` has the view of each layer, in a session that has
    any. Raises WireError."""
    if isinstance(message, BeginPart) != bool(view_of):
        raise WireError("a step has views if, and only if, the session has")
    views = message.views if isinstance(message, BeginPart) else []
    num_views = max(view_of, default=-1) + 1
    if views and len(views) != num_views:
        raise WireError(f"this session has {num_views} views, not {len(views)}")
    return [list_view(view) for view in views]


def check_views(
    message: Begin,
    extends: Columns,
    prompts: Columns,
    views: Sequence[Columns],
    pages: PageTable,
) -> None:
    """Raise WireError unless every row sees something, and nothing that will not be here; and what
    is kept is kept where rows attend."""
    coming = {sequence: num_tokens for _, sequence, num_tokens in message.forks}
    coming |= {s: start + length for s, start, length in zip(*extends, strict=True)}
    num_seen = 0
    for sequence, first, end in (row for view in views for row in zip(*view, strict=True)):
        held = max(coming.get(sequence, 0), pages.num_tokens(sequence))
        if not 0 <= first < end <= held:
            raise WireError(f"sequence {sequence} has no tokens {first} to {end} here")
        num_seen += (end - first) // pages.page_tokens + 2
    if num_seen > _MOST_SEEN:
        raise WireError("the rows of one step see too many pages; send smaller steps")
    if isinstance(message, BeginPart) and extends[0] and not (views and all(v[0] for v in views)):
        raise WireError("rows that extend attend in every layer; a view of them is empty")
    if not {number for view in views for number in view[0]}.isdisjoint(prompts[0]):
        raise WireError("a row sees a prompt of its own step")
