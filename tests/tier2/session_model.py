"""What a session means, in a few lines of plain tensors: whether a message is in order, what is
kept after it and what is answered."""

from dataclasses import dataclass, field

import torch

from glinthawk.attention.reference import attend_sequence
from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.spec import AttentionLayer
from glinthawk.wire.messages import Begin, BeginPart, Spans, View

__all__ = ["Model", "Step"]

Rows = tuple[torch.Tensor, torch.Tensor]


@dataclass
class Step:
    begin: Begin
    next_stored: int = 0
    next_attended: int = 0

    @property
    def members(self) -> list[int]:
        """Sequences that are written to or looked at."""
        looked = [s for view in _views(self.begin) for s in view.sequences]
        return self.begin.extends.sequences + self.begin.prompts.sequences + looked


@dataclass
class Model:
    """What a session means."""

    layers: tuple[AttentionLayer, ...]
    views: list[int]
    can_fetch: bool
    lengths: dict[int, int] = field(default_factory=dict)
    #: Keys and values of each sequence, layer by layer; what is behind its length means nothing.
    kept: dict[int, list[Rows]] = field(default_factory=dict)
    steps: dict[int, Step] = field(default_factory=dict)
    #: Tokens for which a sequence has pages, given up ones included.
    reserved: dict[int, int] = field(default_factory=dict)

    def stands(self, sequence: int) -> int:
        """Tokens that no step under way may change."""
        starts = [
            start
            for step in self.steps.values()
            for spans in (step.begin.extends, step.begin.prompts)
            for number, start in zip(spans.sequences, spans.starts, strict=True)
            if number == sequence
        ]
        return min([self.lengths.get(sequence, 0), *starts])

    def allows_begin(self, message: Begin) -> bool:
        spans = [*_rows(message.extends), *_rows(message.prompts)]
        sequences = [sequence for sequence, _, _ in spans]
        running = {number for step in self.steps.values() for number in step.members}
        looked = [row for view in _views(message) for row in _rows(view)]
        if message.step in self.steps or len(set(sequences)) < len(sequences):
            return False
        if any(start for _, start, _ in _rows(message.prompts)):
            return False
        if running & {*sequences, *(sequence for sequence, _, _ in looked)}:
            return False
        if isinstance(message, BeginPart) != bool(self.views):
            return False
        held = self._held_after_forks(message)
        if held is None or any(start > held.get(number, 0) for number, start, _ in spans):
            return False
        for number, start, length in _rows(message.extends):
            held[number] = max(held.get(number, 0), start + length)
        if {sequence for sequence, _, _ in looked} & set(message.prompts.sequences):
            return False
        views = _views(message)
        if views and len(views) != 1 + max(self.views):
            return False
        # What is kept is kept where rows attend.
        attends = bool(views) and all(view.sequences for view in views)
        if self.views and message.extends.sequences and not attends:
            return False
        return all(0 <= first < end <= held.get(number, 0) for number, first, end in looked)

    def _held_after_forks(self, message: Begin) -> dict[int, int] | None:
        """Lengths, None if a fork cannot be."""
        held, begun = dict(self.lengths), set()
        for source, sequence, count in message.forks:
            stands = held[source] if source in begun else self.stands(source)
            if sequence in held or not 0 < count <= stands:
                return None
            if not self.views and sequence not in (
                message.extends.sequences + message.prompts.sequences
            ):
                return None
            held[sequence] = count
            begun.add(sequence)
        return held

    def begin(self, message: Begin) -> None:
        for source, sequence, count in message.forks:
            self.lengths[sequence] = self.reserved[sequence] = count
            self.kept[sequence] = [
                (keys[:count], values[:count]) for keys, values in self.kept[source]
            ]
        for spans in (message.extends, message.prompts):
            for sequence, start, length in _rows(spans):
                for ends in (self.lengths, self.reserved):
                    ends[sequence] = max(ends.get(sequence, 0), start + length)
                self.kept.setdefault(sequence, [_nothing(layer) for layer in self.layers])
        step = Step(message)
        if self.has_prompts(step) or self.next_attended(step) is not None:
            self.steps[message.step] = step

    def has_prompts(self, step: Step) -> bool:
        return bool(step.begin.prompts.sequences) and step.next_stored < len(self.layers)

    def next_attended(self, step: Step) -> int | None:
        """The layer in which its rows attend next."""
        for layer in range(step.next_attended, len(self.layers)):
            if self.num_attending(step, layer):
                return layer
        return None

    def num_attending(self, step: Step, layer: int) -> int:
        if not self.views:
            return sum(step.begin.extends.lengths)
        views = _views(step.begin)
        return len(views[self.views[layer]].sequences) if views else 0

    def store(self, step: Step, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        self._write(step.begin.prompts, layer, keys, values)
        step.next_stored += 1
        self._forget_if_done(step)

    def attend(
        self, step: Step, layer: int, queries: torch.Tensor, *kv: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs and log-sum-exps of its rows."""
        spans = step.begin.extends
        if kv:
            self._write(spans, layer, *kv)
        seen: list[tuple[int, int, int, int]]  # sequence, first, end, rows
        if self.views:
            view = _views(step.begin)[self.views[layer]]
            seen = [(sequence, first, end, 1) for sequence, first, end in _rows(view)]
        else:
            seen = [(s, 0, start + length, length) for s, start, length in _rows(spans)]
        answers = []
        blocks = queries.split([rows for _, _, _, rows in seen])
        for block, (sequence, first, end, _) in zip(blocks, seen, strict=True):
            keys, values = (rows[first:end] for rows in self.kept[sequence][layer])
            answers.append(attend_sequence(block, keys, values, self.layers[layer]))
        step.next_attended = layer + 1
        self._forget_if_done(step)
        return torch.cat([out for out, _ in answers]), torch.cat([lse for _, lse in answers])

    def _write(self, spans: Spans, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        blocks = zip(
            _rows(spans), keys.split(spans.lengths), values.split(spans.lengths), strict=True
        )
        for (sequence, start, length), *new in blocks:
            old = self.kept[sequence][layer]
            keys, values = (
                torch.cat([before[:start], rows, before[start + length :]])
                for before, rows in zip(old, new, strict=True)
            )
            self.kept[sequence][layer] = (keys, values)

    def _forget_if_done(self, step: Step) -> None:
        if not self.has_prompts(step) and self.next_attended(step) is None:
            del self.steps[step.begin.step]

    def abandon(self, number: int) -> None:
        if number in self.steps:
            begin = self.steps.pop(number).begin
            for sequence, start, _ in [*_rows(begin.extends), *_rows(begin.prompts)]:
                self.lengths[sequence] = min(self.lengths[sequence], start)

    def release(self, sequences: list[int]) -> None:
        for sequence in sequences:
            for known in (self.lengths, self.reserved, self.kept):
                known.pop(sequence, None)

    @property
    def resting(self) -> list[int]:
        running = {number for step in self.steps.values() for number in step.members}
        return [number for number in self.lengths if number not in running]

    def most_pages(self, message: Begin) -> int:
        """That it and all before may take."""
        ends = dict(self.reserved)
        for _, sequence, count in message.forks:
            ends[sequence] = count
        for sequence, start, length in [*_rows(message.extends), *_rows(message.prompts)]:
            ends[sequence] = max(ends.get(sequence, 0), start + length)
        return sum(-(-end // PAGE_TOKENS) for end in ends.values())


def _views(message: Begin) -> list[View]:
    return message.views if isinstance(message, BeginPart) else []


def _rows(columns: Spans | View) -> list[tuple[int, int, int]]:
    if isinstance(columns, Spans):
        return list(zip(columns.sequences, columns.starts, columns.lengths, strict=True))
    return list(zip(columns.sequences, columns.firsts, columns.ends, strict=True))


def _nothing(layer: AttentionLayer) -> Rows:
    heads = layer.num_kv_heads
    return torch.empty(0, heads, layer.head_dim), torch.empty(0, heads, layer.value_dim)
