"""The self-check of a batch-invariant run: a sequence comes to the same bits at every home, alone
or beside others, in one span or token by token."""

from collections.abc import Iterator, Sequence

import torch

from glinthawk.core.batch import Batch, Span
from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.errors import UnsupportedModel
from glinthawk.tier1.forward.cut import Passes, make_hidden
from glinthawk.tier1.kv.home import Home
from glinthawk.tier1.model.loader import LoadedModel
from glinthawk.tier1.model.self_check import last_rows, make_sequence, received_rows
from glinthawk.tier1.node import Node

__all__ = ["check_same_bits"]

#: Over the edges of pages, of blocks of vectors and of tiny windows.
_LENGTHS = (7, 40, 71)
#: The last tokens of a sequence that come one by one.
_SINGLE = 3


@torch.inference_mode()
def check_same_bits(loaded: LoadedModel, homes: Sequence[Home], passes: Passes | None) -> None:
    """Raise UnsupportedModel if a home's attention, or its place, changes a bit."""
    first: list[torch.Tensor] | None = None
    lengths = _fitting(homes, loaded.spec.plain_len)
    for home in homes:
        runner = _Runner(loaded, home, passes, lengths)
        together = runner.run([runner.whole()])
        if not _are_equal(together, runner.run(runner.pieces())):
            raise UnsupportedModel(
                f"--batch-invariant: {home.kernel} attends to several tokens in other bits than to "
                "one; leave it out, or use workers on CPUs"
            )
        first = first or together
        if not _are_equal(together, first):
            raise UnsupportedModel(
                f"--batch-invariant: {homes[0].kernel} and {home.kernel} come to different bits; "
                "leave it out, or use machines alike"
            )


class _Runner:
    """Runs a few sequences at one home, whose room they leave as it was."""

    def __init__(
        self, loaded: LoadedModel, home: Home, passes: Passes | None, lengths: list[int]
    ) -> None:
        self._loaded, self._home, self._passes = loaded, home, passes
        generator = torch.Generator().manual_seed(0)
        spec = loaded.spec
        self._sequences = [
            make_sequence(
                number, torch.randint(spec.vocab_size, (n,), generator=generator).tolist(), 1
            )
            for number, n in enumerate(lengths)
        ]
        self._received = [
            None if loaded.part.is_first else make_hidden(loaded.model, len(s.request.prompt), s.id)
            for s in self._sequences
        ]

    def whole(self) -> list[Span]:
        return [Span(s, self._home.id, 0, s.length) for s in self._sequences]

    def pieces(self) -> Iterator[list[Span]]:
        """Each sequence's beginning by itself, then its last tokens one by one, side by side."""
        begun = {s.id: max(1, s.length - _SINGLE) for s in self._sequences}
        for s in self._sequences:
            yield [Span(s, self._home.id, 0, begun[s.id])]
        for back in range(_SINGLE, 0, -1):
            starts = [(s, s.length - back) for s in self._sequences]
            yield [Span(s, self._home.id, at, 1) for s, at in starts if at >= begun[s.id]]

    def run(self, steps: Sequence[list[Span]] | Iterator[list[Span]]) -> list[torch.Tensor]:
        """What follows each sequence's last token, after these steps."""
        last: dict[int, torch.Tensor] = {}

        def collect(batch: Batch, result: torch.Tensor, _: torch.Tensor | None) -> None:
            for span, row in zip(batch.spans, last_rows(batch, result), strict=True):
                last[span.sequence.id] = row

        layers = self._loaded.spec.layers
        node = Node(self._loaded.model, layers, [self._home], collect, passes=self._passes)
        for number, spans in enumerate(filter(None, steps)):
            batch = Batch(number, tuple(spans), ())
            node.start(batch, received_rows(batch, self._received))
            node.poll()
        self._home.release([s.id for s in self._sequences])
        return [last[s.id] for s in self._sequences]


def _fitting(homes: Sequence[Home], longest: int) -> list[int]:
    """Lengths of sequences that fit into each of ``homes`` together."""
    pages = min(home.num_pages for home in homes)
    most = min(home.most_sequences for home in homes)
    lengths: list[int] = []
    for length in _LENGTHS[:most]:
        room = pages - sum(-(-n // PAGE_TOKENS) for n in lengths)
        if room:
            lengths.append(min(length, longest, room * PAGE_TOKENS))
    return lengths


def _are_equal(ours: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ours, others, strict=True))
