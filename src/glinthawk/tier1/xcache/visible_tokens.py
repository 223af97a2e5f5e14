"""What rows see of tokens that are rebuilt, cut into pieces of work. Knows numbers of tokens only.

A *run* is the tokens of one sequence between two fixed boundaries that some rows see. Runs of one
length stand one after the other, so that a *group* of them is attended in one call; a *piece* is
as many groups as are rebuilt at once. Sequences that share pages share their runs.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby

import torch

from glinthawk.wire.messages import View

__all__ = ["PIECE_TOKENS", "Group", "Piece", "lay_out"]

#: Tokens between two boundaries, and to which a run's length is rounded up: the shorter, the fewer
#: calls take runs of the same length; the longer, the fewer partial answers there are to merge.
_RUN_TOKENS, _ROUND_TOKENS = 256, 32
#: Tokens that are rebuilt at once: their K and V should not leave the processor's caches.
PIECE_TOKENS = 2048


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """B runs of S tokens each, from ``begin`` on in its piece, and Q rows that see each of them."""

    begin: int
    num_tokens: int
    rows: torch.Tensor  # (B, Q)
    #: Added to scores: minus infinity where a row does not see a token; None: all see all.
    mask: torch.Tensor | None  # (B, Q, S)


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Tokens to rebuild, by their place in memory, and who sees which of them."""

    places: torch.Tensor  # (N,)
    groups: list[Group]
    #: The rows, each once, and which one of these each answer is for, group by group.
    rows: torch.Tensor  # (U,)
    members: torch.Tensor  # (M,)

    def on(self, device: torch.device) -> "Piece":
        """The same with everything but the places on a device."""
        if device.type == "cpu":
            return self
        groups = [
            replace(
                group,
                rows=group.rows.to(device),
                mask=None if group.mask is None else group.mask.to(device),
            )
            for group in self.groups
        ]
        return replace(
            self, groups=groups, rows=self.rows.to(device), members=self.members.to(device)
        )


@dataclass(frozen=True, slots=True)
class _Run:
    """Tokens [first, end) of the sequence that holds ``pages`` from ``boundary`` on, and the part
    of them that each row sees."""

    boundary: int
    pages: tuple[int, ...]
    rows: list[tuple[int, int, int]]

    @property
    def first(self) -> int:
        return min(first for _, first, _ in self.rows)

    @property
    def end(self) -> int:
        return max(end for _, _, end in self.rows)

    @property
    def num_padded(self) -> int:
        return -(-(self.end - self.first) // _ROUND_TOKENS) * _ROUND_TOKENS

    @property
    def has_mask(self) -> bool:
        seen = (self.first, self.first + self.num_padded)
        return any((first, end) != seen for _, first, end in self.rows)

    @property
    def shape(self) -> tuple[int, int, bool]:
        """Runs of one shape make a group."""
        return self.num_padded, len(self.rows), self.has_mask


def lay_out(
    view: View,
    pages: Callable[[int], list[int]],
    page_tokens: int,
    dtype: torch.dtype,
    device: torch.device,
    piece_tokens: int = PIECE_TOKENS,
) -> list[Piece]:
    """Pieces for the rows of ``view``; ``pages`` says where a sequence's tokens lie. Masks are of
    ``dtype``; they and numbers of rows are on the device, places in the host's memory.

    >>> # pages of 4 tokens, boundaries every 8: a row that sees tokens 6 to 11 of a sequence has
    >>> # a run of tokens 6, 7 and one of tokens 8, 9, 10
    """
    runs = sorted(_find_runs(view, pages, page_tokens), key=lambda run: run.shape, reverse=True)
    pieces = [_make_piece(some, page_tokens, dtype) for some in _cut(runs, piece_tokens)]
    return [piece.on(device) for piece in pieces]


def _find_runs(view: View, pages: Callable[[int], list[int]], page_tokens: int) -> Iterable[_Run]:
    step = -(-_RUN_TOKENS // page_tokens)  # pages from boundary to boundary
    size = step * page_tokens
    runs: dict[tuple[int, tuple[int, ...]], _Run] = {}
    for row, (sequence, first, end) in enumerate(
        zip(view.sequences, view.firsts, view.ends, strict=True)
    ):
        held = pages(sequence)
        for number in range(first // size, -(-end // size)):
            boundary, some = number * size, tuple(held[number * step : (number + 1) * step])
            run = runs.setdefault((boundary, some), _Run(boundary, some, []))
            run.rows.append((row, max(first, boundary), min(end, boundary + size)))
    return runs.values()


def _cut(runs: list[_Run], piece_tokens: int) -> Iterator[list[_Run]]:
    piece: list[_Run] = []
    size = 0
    for run in runs:
        if piece and size + run.num_padded > piece_tokens:
            yield piece
            piece, size = [], 0
        piece.append(run)
        size += run.num_padded
    if piece:
        yield piece


def _make_piece(runs: list[_Run], page_tokens: int, dtype: torch.dtype) -> Piece:
    places = torch.cat([_places(run, page_tokens) for run in runs])
    groups, begin = [], 0
    for (num_tokens, _, has_mask), some in groupby(runs, key=lambda run: run.shape):
        alike = list(some)
        rows = torch.tensor([[row for row, _, _ in run.rows] for run in alike])
        mask = torch.stack([_mask(run, dtype) for run in alike]) if has_mask else None
        groups.append(Group(begin, num_tokens, rows, mask))
        begin += len(alike) * num_tokens
    rows, members = torch.cat([group.rows.flatten() for group in groups]).unique(
        return_inverse=True
    )
    return Piece(places, groups, rows, members)


def _places(run: _Run, page_tokens: int) -> torch.Tensor:
    """Where its tokens lie (S,). Behind the end its last one stands again, for what lies there in
    memory may be anything."""
    tokens = torch.arange(run.first, run.first + run.num_padded).clamp(max=run.end - 1)
    pages = torch.tensor(run.pages)
    tokens -= run.boundary
    return pages[tokens // page_tokens] * page_tokens + tokens % page_tokens


def _mask(run: _Run, dtype: torch.dtype) -> torch.Tensor:
    """(Q, S)."""
    token = torch.arange(run.first, run.first + run.num_padded)
    bounds = torch.tensor([(first, end) for _, first, end in run.rows])
    hidden = (token < bounds[:, :1]) | (token >= bounds[:, 1:])
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, float("-inf"))
