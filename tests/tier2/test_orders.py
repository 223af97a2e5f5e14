"""Messages in any order: what is out of order is a Fault, and the worker serves whoever comes next.

A client of bad manners says what a good one would, and now and then something else instead. The
frames have the sizes that they should have, so that sizes alone refuse nothing.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.drives import Drive
from glinthawk.core.spec import AttentionLayer
from glinthawk.tier2.pages.page_files import PageFiles
from glinthawk.wire.messages import (
    Abandon,
    Attend,
    Attended,
    Begin,
    Fault,
    FromTier1,
    ReleaseKV,
    Spans,
    Store,
)
from worker_talk import NONE, Talk

_KERNELS = tuple(AttentionLayer(4, 2, 32, 32, scaling=0.2) for _ in range(3))
#: Head sizes that the kernels do not take are attended by plain torch.
_PLAIN = tuple(AttentionLayer(4, 2, 12, 12, scaling=0.2) for _ in range(3))
#: For pages on drives: buffers take most of it, so nearly all pages are there.
_SHORT = 3 << 19

PLACES = {"memory": _KERNELS, "drives": _KERNELS, "plain torch": _PLAIN}


@contextmanager
def _talk(place: str, folder: Path) -> Iterator[Talk]:
    layers = PLACES[place]
    drives = [Drive(folder, 2 << 20)] * 2 if place == "drives" else []
    page = sum(layer.kv_elements for layer in layers) * 4 * PAGE_TOKENS
    with PageFiles(drives) as files:
        yield Talk(layers, _SHORT // page if drives else 12, files=files)


@dataclass
class _Rude:
    """What it has begun: (rows that extend, rows of prompts) of each step."""

    talk: Talk
    chance: random.Random
    rows: dict[int, tuple[int, int]] = field(default_factory=dict)
    lengths: dict[int, int] = field(default_factory=dict)
    num_steps: int = 0
    num_faults: int = 0

    def act(self) -> None:
        if not self.rows or self.chance.random() < 0.2:
            self._begin()
        elif self.chance.random() < 0.6:
            self._whole_step(self.chance.choice(list(self.rows)))
        else:
            self._anything()

    def _begin(self) -> None:
        step = self.num_steps = self.num_steps + self.chance.choice((1, 1, 1, 0))
        prompts, extends = ([], [], []), ([], [], [])
        for sequence in self.chance.sample(range(6), self.chance.randrange(1, 4)):
            known = self.lengths.get(sequence, 0)
            if known and self.chance.random() < 0.7:
                row, group = (sequence, known + self.chance.choice((0, 0, 0, -1, 1)), 1), extends
            else:
                row, group = (sequence, 0, self.chance.choice((1, 7, 32, 96, 400))), prompts
            for column, value in zip(group, row, strict=True):
                column.append(value)
        if self._say(Begin(step, Spans(*extends), Spans(*prompts))):
            self.rows[step] = sum(extends[2]), sum(prompts[2])
            for sequence, start, length in zip(
                *(a + b for a, b in zip(extends, prompts, strict=True)), strict=True
            ):
                self.lengths[sequence] = start + length

    def _whole_step(self, step: int) -> None:
        """As it should be, or with one layer left out, twice, or too early."""
        layers = list(range(len(self.talk.layers)))
        if self.chance.random() < 0.5:
            layers[self.chance.randrange(len(layers))] = self.chance.choice(layers)
        for layer in layers:
            self._parcel(step, layer, of_prompts=False)
            self._parcel(step, layer, of_prompts=True)
        if self.chance.random() < 0.3:
            self._say(Abandon(step))
        if layers == sorted(set(layers)):
            del self.rows[step]

    def _parcel(self, step: int, layer: int, of_prompts: bool) -> None:
        rows = self.rows[step][of_prompts]
        if rows:
            frames = self.talk.frames(layer, step, rows)
            if of_prompts:
                self._say(Store(step, layer), *frames[1:])
            else:
                self._say(Attend(step, layer), *frames)

    def _anything(self) -> None:
        step = self.chance.choice(list(self.rows))
        match self.chance.randrange(3):
            case 0:
                layer = self.chance.randrange(len(self.talk.layers))
                self._parcel(step, layer, of_prompts=self.chance.random() < 0.5)
            case 1:
                self._say(ReleaseKV([self.chance.randrange(6)]))
            case 2:
                self._say(Abandon(step))
                del self.rows[step]

    def _say(self, message: FromTier1, *frames: bytes) -> bool:
        answer = self.talk.say(message, *frames)
        is_fault = answer is not None and isinstance(answer[0], Fault)
        self.num_faults += is_fault
        if is_fault:
            assert "unexpectedly" not in answer[0].text, answer[0].text  # type: ignore[index]
        return not is_fault


def _honest(talk: Talk, client: bytes) -> list[torch.Tensor]:
    """A prompt and a row of a client that keeps the rules."""
    talk.open(client)
    talk.say(Begin(1, NONE, Spans([7], [0], [70])), client=client)
    for layer in range(len(talk.layers)):
        talk.say(Store(1, layer), *talk.frames(layer, 5, 70)[1:], client=client)
    talk.say(Begin(2, Spans([7], [70], [1]), NONE), client=client)
    outputs = []
    for layer in range(len(talk.layers)):
        answer = talk.say(Attend(2, layer), *talk.frames(layer, 6, 1), client=client)
        assert answer is not None and isinstance(answer[0], Attended), answer
        outputs.append(talk.output(layer, answer))
    return outputs


@pytest.mark.parametrize("place", PLACES)
def test_no_order_ends_a_worker(place: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    num_faults = 0

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 1 << 30))
    def play(seed: int) -> None:
        nonlocal num_faults
        with _talk(place, tmp_path_factory.mktemp("drive")) as talk:
            talk.open()
            rude = _Rude(talk, random.Random(seed))
            for _ in range(30):
                rude.act()
            num_faults += rude.num_faults
            outputs = _honest(talk, b"second")
        with _talk(place, tmp_path_factory.mktemp("drive")) as fresh:
            for ours, own in zip(outputs, _honest(fresh, b"only"), strict=True):
                assert torch.equal(ours, own)

    play()
    assert num_faults > 25


def test_a_layer_too_early_is_refused(tmp_path: Path) -> None:
    with _talk("drives", tmp_path) as talk:
        pages = talk.open().num_pages
        length = (pages // 2) * PAGE_TOKENS
        assert talk.say(Begin(1, NONE, Spans([1], [0], [length]))) is None
        fault = talk.fault(Store(1, 1), *talk.frames(1, 3, length)[1:])
        assert "out of order" in fault.text
        answer = talk.store_all(1, length, 3)
        assert answer is not None and not isinstance(answer[0], Fault)
        assert talk.say(ReleaseKV([1])) is None
