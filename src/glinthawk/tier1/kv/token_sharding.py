"""A step's rows, shared out among places that each keep some tokens of the sequences."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from glinthawk.core.batch import Span
from glinthawk.tier1.device.staging import upload
from glinthawk.tier1.kv.token_stripes import Stripes
from glinthawk.wire.messages import Spans, View

__all__ = ["Rows", "Share", "pick", "share_step"]


@dataclass(slots=True)
class Share:
    """One place's part of a step, in its own counting of tokens; ``*_rows`` say which of the
    step's rows, those that extend or those of prompts, its rows are."""

    views: list[View]
    view_rows: list[list[int]]
    extends: Spans = field(default_factory=lambda: Spans([], [], []))
    extend_rows: list[int] = field(default_factory=list)
    prompts: Spans = field(default_factory=lambda: Spans([], [], []))
    prompt_rows: list[int] = field(default_factory=list)
    forks: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether the place need not know of the step."""
        return not (self.extend_rows or self.prompt_rows or self.forks or any(self.view_rows))

    @property
    def views_to_send(self) -> list[View]:
        """None, if no row attends at the worker."""
        return self.views if any(self.view_rows) else []


@dataclass(slots=True)
class Rows:
    """Which of a home's rows are a share's, on the device. None: all of them, or none."""

    extends: torch.Tensor | None
    prompts: torch.Tensor | None
    views: list[torch.Tensor | None]

    @classmethod
    def upload(
        cls, share: Share, num_extends: int, num_prompts: int, device: torch.device
    ) -> "Rows":
        """Of so many rows that extend and so many of prompts."""
        return cls(
            _upload(share.extend_rows, num_extends, device),
            _upload(share.prompt_rows, num_prompts, device),
            [_upload(rows, num_extends, device) for rows in share.view_rows],
        )


def pick(rows: torch.Tensor, indices: torch.Tensor | None) -> torch.Tensor:
    """Those of ``rows`` that ``Rows`` says."""
    return rows if indices is None else rows[indices]


def share_step(
    stripes: Stripes,
    windows: Sequence[int | None],
    extends: Sequence[Span],
    prompts: Sequence[Span],
) -> list[Share]:
    """A share for each worker. Every row of ``extends`` attends wherever there are tokens that it
    sees: for each of ``windows`` a view."""
    shares = [
        Share([View([], [], []) for _ in windows], [[] for _ in windows])
        for _ in range(stripes.num_parts)
    ]
    row = 0
    for span in extends:
        _fork(stripes, shares, span)
        _keep(stripes, [(share.extends, share.extend_rows) for share in shares], span, row)
        for index, window in enumerate(windows):
            views = [(share.views[index], share.view_rows[index]) for share in shares]
            _look(stripes, views, span, row, window)
        row += span.length
    row = 0
    for span in prompts:
        _keep(stripes, [(share.prompts, share.prompt_rows) for share in shares], span, row)
        row += span.length
    return shares


def _fork(stripes: Stripes, shares: list[Share], span: Span) -> None:
    if span.source is None:
        return
    for part, share in enumerate(shares):
        num_tokens = stripes.count(span.sequence.id, part, span.start)
        if num_tokens:
            share.forks.append((span.source, span.sequence.id, num_tokens))


def _keep(
    stripes: Stripes, shares: list[tuple[Spans, list[int]]], span: Span, first_row: int
) -> None:
    """Each worker keeps its own of a span's tokens, which for it are one span."""
    number, end = span.sequence.id, span.start + span.length
    for part, begin, stop in stripes.runs(number, span.start, end):
        first = first_row + begin - span.start
        shares[part][1].extend(range(first, first + stop - begin))
    for part, (spans, _) in enumerate(shares):
        start = stripes.count(number, part, span.start)
        length = stripes.count(number, part, end) - start
        if length:
            spans.sequences.append(number)
            spans.starts.append(start)
            spans.lengths.append(length)


def _look(
    stripes: Stripes,
    views: list[tuple[View, list[int]]],
    span: Span,
    first_row: int,
    window: int | None,
) -> None:
    """Each row of a span sees tokens up to its own, and ``window`` of them."""
    number = span.sequence.id
    for offset in range(span.length):
        end = span.start + offset + 1
        oldest = 0 if window is None else max(0, end - window)
        for part, (view, rows) in enumerate(views):
            first, last = (stripes.count(number, part, at) for at in (oldest, end))
            if first < last:
                view.sequences.append(number)
                view.firsts.append(first)
                view.ends.append(last)
                rows.append(first_row + offset)


def _upload(rows: list[int], num_rows: int, device: torch.device) -> torch.Tensor | None:
    return upload(rows, device) if 0 < len(rows) < num_rows else None
