"""Hidden states of prompts' rows, added up; and what a head of the model makes of them."""

from collections.abc import Iterator, Sequence

import torch

from glinthawk.core.batch import Batch, Span

__all__ = ["pool_batch"]

#: Sums of multiples of this are exact in float64, up to 2**23, so it does not matter in which parts
#: a prompt comes. It is less than what float32 tells apart in a number of 0.01.
_GRAIN = 2.0**-30


def pool_batch(
    batch: Batch,
    states: torch.Tensor | None,
    logits: torch.Tensor,
    head: torch.nn.Module | None = None,
) -> list[bytes]:
    """For each span that is pooled, in order, the sum of its rows of ``states`` (P, hidden), or of
    what ``head`` makes of them; of one that is judged, those of its row of ``logits`` (J, V) that
    are asked for. Float64 in native byte order."""
    spans = [span for span in batch.spans if span.num_pooled]
    summed = [span for span in spans if not span.is_judged]
    assert states is not None or not summed
    sums = iter(()) if states is None else _sums(summed, states, head)
    rows = iter(logits)
    return [_judge(span, next(rows)) if span.is_judged else next(sums) for span in spans]


def _sums(
    spans: Sequence[Span], states: torch.Tensor, head: torch.nn.Module | None
) -> Iterator[bytes]:
    rows = states.float()
    if head is not None:
        # One by one: bits of a product would depend on how many rows it has.
        rows = torch.cat([head(row) for row in rows.split(1)])
    parts = rows.double().split([span.num_pooled for span in spans])
    sums = [_sum(*pair) for pair in zip(spans, parts, strict=True)]
    for row in torch.stack(sums).cpu().numpy():
        yield row.tobytes()


def _sum(span: Span, rows: torch.Tensor) -> torch.Tensor:
    """(R, N) -> (N,). A chunk of one row is rounded like others of its prompt."""
    is_alone = len(span.sequence.request.pooled_rows) == 1
    return rows[0] if is_alone else ((rows / _GRAIN).round() * _GRAIN).sum(0)


def _judge(span: Span, logits: torch.Tensor) -> bytes:
    pooling = span.sequence.request.pooling
    assert pooling is not None
    return logits[list(pooling.tokens)].double().cpu().numpy().tobytes()
