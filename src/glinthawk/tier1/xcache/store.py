"""The X-cache: what attention was given for a token (X), kept in place of its K and V.

Of a share of every sequence's tokens, Tier 1 keeps X in the host's memory, rebuilds K and V at each
step and attends there, while a worker attends to the others; answers merge by log-sum-exp (INF^2,
arXiv 2502.09921). Where every query head has a KV head of its own, X is half of K and V, and the
worker's memory or storage reads so much less.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from glinthawk.core.pages import Pages
from glinthawk.core.spec import AttentionLayer, ModelSpec
from glinthawk.tier1.forward.cut import Arguments
from glinthawk.tier1.kv.own_part import PartialAnswer
from glinthawk.tier1.kv.token_sharding import Rows, Share, pick
from glinthawk.tier1.xcache.partials import Merge, attend_some
from glinthawk.tier1.xcache.rebuild import Rebuild
from glinthawk.tier1.xcache.visible_tokens import Group, Piece, lay_out
from glinthawk.wire.messages import Spans

__all__ = ["XCache"]


@dataclass(slots=True)
class _Step:
    """A step's rows here: which of the home's, where X of new ones goes, what each view sees."""

    share: Share
    rows: Rows
    extends: torch.Tensor
    prompts: torch.Tensor
    sights: list[list[Piece]]
    #: The view and its queries (T, H, D) that wait for an answer.
    asked: tuple[int, torch.Tensor] | None = None


class XCache:
    """X of the tokens in ``pages``, which belong to whoever deals them."""

    def __init__(
        self,
        rebuild: Rebuild,
        spec: ModelSpec,
        pages: Pages,
        device: torch.device,
        absorbs: bool = True,
    ) -> None:
        """Without ``absorbs``, K and V are rebuilt even where they need not be."""
        self._rebuild, self._spec, self._pages, self._device = rebuild, spec, pages, device
        self._absorbs = absorbs
        # Memory that nobody has written to yet takes none of the machine's.
        self._memory = [
            torch.empty(pages.num_tokens, *slot.shape, dtype=slot.dtype) for slot in rebuild.slots
        ]
        self._steps: dict[int, _Step] = {}

    @property
    def peak_bytes(self) -> int:
        """Most bytes of X held at one time."""
        pages = self._pages
        return pages.peak_used * pages.page_tokens * self._rebuild.bytes_per_token

    def fill(self) -> None:
        """Random X everywhere, to measure with."""
        for tensor in self._memory:
            tensor.normal_() if tensor.is_floating_point() else tensor.zero_()

    def begin(self, step: int, share: Share, rows: Rows) -> None:
        """Take this part's ``share`` of a step, for whose tokens there are pages; ``rows`` of the
        home's are its."""
        dtype: torch.dtype = getattr(torch, self._spec.dtype)
        held, size = self._pages.held.__getitem__, self._pages.page_tokens
        sights = [lay_out(view, held, size, dtype, self._device) for view in share.views]
        places = (self._places(share.extends), self._places(share.prompts))
        self._steps[step] = _Step(share, rows, *places, sights)

    def keep(
        self, step: int, layer: int, given: Arguments, extends: slice | None, prompts: slice | None
    ) -> None:
        """Of what attention was ``given`` for a batch, in which these are the home's rows, keep
        X of the tokens that are dealt to Tier 1."""
        if (running := self._steps.get(step)) is None:
            return
        share, rows = running.share, running.rows
        for slot, tensor in self._rebuild.kept(layer, given):
            if extends is not None and share.extend_rows:
                self._write(slot, running.extends, pick(tensor[extends], rows.extends))
            if prompts is not None and share.prompt_rows:
                self._write(slot, running.prompts, pick(tensor[prompts], rows.prompts))

    def ask(self, step: int, view: int, q: torch.Tensor) -> None:
        """Queries (T, H, D) of the home's rows, for ``answer``."""
        running = self._steps.get(step)
        if running is not None and running.share.view_rows[view]:
            running.asked = view, pick(q, running.rows.views[view])

    def answer(self, step: int, layer: int) -> PartialAnswer | None:
        """To what was asked; None if no row sees anything here."""
        running = self._steps.get(step)
        if running is None or running.asked is None:
            return None
        (view, q), running.asked = running.asked, None
        return running.rows.views[view], *self._attend(layer, running.sights[view], q)

    def end(self, step: int) -> None:
        """The step is over, finished or not."""
        self._steps.pop(step, None)

    @torch.inference_mode()
    def _attend(
        self, layer: int, pieces: Sequence[Piece], q: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries (R, H, D) -> output (R, H, Dv), log-sum-exp (R, H), both in float32."""
        spec = self._spec.layers[layer]
        found = self._rebuild.absorbed(layer) if self._absorbs else None
        if found is None or not found[1].pays(spec, _rows_per_token(pieces)):
            return _walk(pieces, q, spec, lambda places: self._rebuild_some(layer, places))
        slot, absorbed = found
        asked = absorbed.ask(q)
        mixed, lse = _walk(pieces, asked, absorbed.layer(spec), lambda at: self._read(slot, at))
        return absorbed.answer(mixed), lse + absorbed.shift(q, spec.scaling)

    def _rebuild_some(self, layer: int, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys (K, T, D) and values (K, T, Dv) of tokens."""
        rows = [self._fetch(slot, places) for slot in self._rebuild.slots_of(layer)]
        return self._rebuild(layer, rows)

    def _read(self, slot: int, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """X of tokens as keys and values (1, T, hidden)."""
        rows = self._fetch(slot, places).flatten(1).unsqueeze(0)
        return rows, rows

    def _fetch(self, slot: int, places: torch.Tensor) -> torch.Tensor:
        """(T, ...)."""
        return self._memory[slot].index_select(0, places).to(self._device)

    def _write(self, slot: int, places: torch.Tensor, rows: torch.Tensor) -> None:
        self._memory[slot].index_copy_(0, places, rows.to("cpu"))

    def _places(self, spans: Spans) -> torch.Tensor:
        """Where the tokens of ``spans`` lie (T,)."""
        size, places = self._pages.page_tokens, []
        for sequence, start, length in zip(
            spans.sequences, spans.starts, spans.lengths, strict=True
        ):
            held = self._pages.held[sequence]
            places += [held[at // size] * size + at % size for at in range(start, start + length)]
        return torch.tensor(places, dtype=torch.long)


def _rows_per_token(pieces: Sequence[Piece]) -> float:
    """Rows that see a token, in the mean."""
    groups = [group for piece in pieces for group in piece.groups]
    pairs = sum(group.rows.numel() * group.num_tokens for group in groups)
    return pairs / sum(len(piece.places) for piece in pieces)


def _walk(
    pieces: Sequence[Piece],
    q: torch.Tensor,
    layer: AttentionLayer,
    make: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend to one piece after the other; ``make`` says what keys (K, T, D) and values (K, T, Dv)
    are at given places. Queries (R, H, D) -> output (R, H, Dv), log-sum-exp (R, H), in float32."""
    merge = Merge(len(q), layer, q.device)
    for piece in pieces:
        keys, values = make(piece.places)
        answers = [_attend_group(group, q, keys, values, layer) for group in piece.groups]
        outputs, lses = (torch.cat(some) for some in zip(*answers, strict=True))
        merge.add(piece.rows, piece.members, outputs, lses)
    return merge.output, merge.lse


def _attend_group(
    group: Group, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, layer: AttentionLayer
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries q (T, H, D), a piece's keys (K, N, D) and values (K, N, Dv) -> output (M, H, Dv),
    log-sum-exp (M, H) of the group's rows in each of its runs."""
    count, size = len(group.rows), group.num_tokens
    k, v = (
        rows[:, group.begin : group.begin + count * size]
        .unflatten(1, (count, size))
        .transpose(0, 1)
        for rows in (keys, values)
    )
    output, lse = attend_some(q[group.rows], k, v, group.mask, layer)
    return output.flatten(0, 1), lse.flatten(0, 1)
