"""Forward passes whose rows come to the same bits, whatever runs beside them.

How many rows a product has decides which kernel computes it and in which order it sums. So rows run
in passes of a few sizes, filled up with rows that are thrown away; ``agreement.py`` has found out
that a row's bits are the same in all of them.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from glinthawk.tier1.forward.cut import Call, Forward, Passes
from glinthawk.tier1.forward.experts import FixedProducts, fill_up

__all__ = ["InvariantPasses", "cover"]

#: A pass is filled up with at most this share of rows that nobody needs, if a smaller one exists.
_MOST_PADDING = 0.25


class InvariantPasses:
    """Makes passes of any number of rows out of passes of ``sizes`` rows, in ascending order.

    ``gives_hidden``: passes end with the hidden state of all rows, as those of a pipeline slice
    that is not the last. ``has_experts``: products inside of a pass have as many rows as the values
    say, and are cut into blocks too.
    """

    def __init__(
        self,
        passes: Passes,
        sizes: Sequence[int],
        gives_hidden: bool = False,
        has_experts: bool = False,
    ) -> None:
        self._passes, self._sizes = passes, tuple(sizes)
        self._gives_hidden, self._has_experts = gives_hidden, has_experts

    def __call__(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        keep: torch.Tensor,
        hidden: torch.Tensor | None = None,
        lengths: torch.Tensor | None = None,
        pooled: torch.Tensor | None = None,
        adapters: torch.Tensor | None = None,
    ) -> Forward:
        order = None if self._gives_hidden else _wanted_first(len(input_ids), keep, pooled)
        columns = {"input_ids": input_ids, "position_ids": position_ids}
        columns |= {} if hidden is None else {"hidden": hidden}
        columns |= {} if lengths is None else {"lengths": lengths}
        columns |= {} if adapters is None else {"adapters": adapters}
        if order is not None:
            columns = {name: rows[order] for name, rows in columns.items()}
        num_kept = len(input_ids) if self._gives_hidden else len(keep)
        num_pooled = 0 if self._gives_hidden or pooled is None else len(pooled)
        parts = [
            self._part(columns, first, num_rows, size, (num_kept, num_kept + num_pooled))
            for first, num_rows, size in self._cuts(len(input_ids), num_kept, num_pooled)
        ]
        return _InvariantPass(parts, order, self._has_experts)

    def _cuts(
        self, num_rows: int, num_kept: int, num_pooled: int
    ) -> Iterator[tuple[int, int, int]]:
        """(first row, rows, size) of every part; those with rows that are kept come first, for the
        others need no logits."""
        first = 0
        for end in (num_kept, num_kept + num_pooled, num_rows):
            for size in cover(end - first, self._sizes):
                rows = min(size, num_rows - first)
                yield first, rows, size
                first += rows

    def _part(
        self,
        columns: dict[str, torch.Tensor],
        first: int,
        num_rows: int,
        size: int,
        ends: tuple[int, int],
    ) -> "_Part":
        """``ends`` are those of the rows that are kept, and of those that are pooled."""
        end = first + num_rows
        given = {name: fill_up(rows[first:end], size) for name, rows in columns.items()}
        kept, wanted = (max(0, min(num_rows, one - first)) for one in ends)
        # All or one: the product that makes logits has a fixed number of rows, too.
        every = torch.arange(size, device=given["input_ids"].device)
        keep = every if kept else every[: int(wanted == 0)]
        pooled = every if wanted > kept else None
        forward = self._passes(keep=keep, pooled=pooled, **given)
        return _Part(forward, num_rows, size, slice(0, kept), slice(kept, wanted))


class _Part:
    """A pass of ``size`` rows, the first ``num_rows`` of which are somebody's."""

    def __init__(
        self, forward: Forward, num_rows: int, size: int, kept: slice, pooled: slice
    ) -> None:
        self.forward, self.num_rows, self._size = forward, num_rows, size
        self._kept, self._pooled = kept, pooled

    def resume(self, output: torch.Tensor | None) -> Call | torch.Tensor:
        """As a Forward, without the rows that fill it up."""
        result = self.forward.resume(None if output is None else fill_up(output, self._size))
        if isinstance(result, Call):
            return result.head(self.num_rows)
        return result[self._kept]

    @property
    def states(self) -> torch.Tensor | None:
        """As a Forward's."""
        states = self.forward.states
        return None if states is None else states[self._pooled]


class _InvariantPass:
    """Parts in lockstep, which look like one Forward; ``order`` are the rows in the order in which
    the parts have them, None if that is their own."""

    def __init__(
        self, parts: list[_Part], order: torch.Tensor | None, has_experts: bool = False
    ) -> None:
        self.depth = -1
        self._parts, self._order = parts, order
        self._back = None if order is None else order.argsort()
        self._has_experts = has_experts

    def resume(self, output: torch.Tensor | None) -> Call | torch.Tensor:
        self.depth += 1
        if output is not None and self._order is not None:
            output = output[self._order]
        with self._fixed_products():
            results = list(self._resume_parts(output))
        calls = [result for result in results if isinstance(result, Call)]
        if not calls:
            ends = [result for result in results if isinstance(result, torch.Tensor)]
            # A part without logits ends with no rows, of any width.
            return _join([rows for rows in ends if len(rows)] or ends[:1], 0)
        joined = (
            _join([getattr(call, field) for call in calls], 2)
            for field in ("queries", "keys", "values")
        )
        q, k, v = (rows if self._back is None else rows[:, :, self._back] for rows in joined)
        return calls[0]._replace(queries=q, keys=k, values=v)

    @property
    def states(self) -> torch.Tensor | None:
        states = [part.states for part in self._parts]
        given = [rows for rows in states if rows is not None]
        return _join(given, 0) if given else None

    def close(self) -> None:
        for part in self._parts:
            part.forward.close()

    def _resume_parts(self, output: torch.Tensor | None) -> Iterator[Call | torch.Tensor]:
        first = 0
        for part in self._parts:
            end = first + part.num_rows
            yield part.resume(None if output is None else output[first:end])
            first = end

    def _fixed_products(self) -> AbstractContextManager[object]:
        return FixedProducts() if self._has_experts else nullcontext()


def cover(num_rows: int, sizes: Sequence[int]) -> Iterator[int]:
    """Sizes, each of ``sizes`` in ascending order, whose sum is at least ``num_rows``: few passes,
    and few rows that fill them up.

    >>> list(cover(5, (16, 64))), list(cover(60, (16, 64))), list(cover(200, (16, 64)))
    ([16], [64], [64, 64, 64, 16])
    """
    while num_rows > 0:
        larger = next((size for size in sizes if size >= num_rows), sizes[-1])
        smaller = max((size for size in sizes if size <= num_rows), default=larger)
        size = larger if larger - num_rows <= _MOST_PADDING * larger else smaller
        yield size
        num_rows -= size


def _wanted_first(
    num_rows: int, keep: torch.Tensor, pooled: torch.Tensor | None
) -> torch.Tensor | None:
    """The numbers of all rows, those in ``keep`` first and then those in ``pooled``, which both
    ascend; None if they are in that order already. Never waits for the device."""
    if len(keep) == num_rows:
        return None
    rank = torch.full((num_rows,), 2, dtype=torch.uint8, device=keep.device)
    rank[keep] = 0
    if pooled is not None:
        rank[pooled] = 1
    return rank.argsort(stable=True)


def _join(parts: list[torch.Tensor], dim: int) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
