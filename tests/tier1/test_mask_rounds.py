"""Masks that are made ahead are those that are made when they are asked for."""

import gc
import threading
from collections.abc import Iterator
from random import Random

import numpy as np
import pytest

from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request, Sequence
from glinthawk.core.source import resolve_model
from glinthawk.core.structured_outputs import StructuredOutputsParams
from glinthawk.tier1.sampling.mask_rounds import MaskMaker
from glinthawk.tier1.sampling.row_masks import Bits
from glinthawk.tier1.sampling.token_masks import TokenMasks
from glinthawk.tokens.grammars import Grammars
from glinthawk.tokens.tokenizer import load_tokenizer

EOS = frozenset({0, 4})
WANTED = [
    StructuredOutputsParams(json='{"type": "array", "items": {"type": "integer"}}'),
    StructuredOutputsParams(regex="[a-z]+( [a-z]+)*"),
    StructuredOutputsParams(choice=["yes", "no"]),
]


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(load_tokenizer(resolve_model("demo")))


@pytest.fixture
def masks(grammars: Grammars) -> TokenMasks:
    return TokenMasks(lambda: grammars)


def _sequences(count: int, max_tokens: int = 99) -> list[Sequence]:
    return [
        Sequence(
            Request(
                number,
                (1, 2),
                SamplingParams(max_tokens=None, structured_outputs=WANTED[number % len(WANTED)]),
                number,
                max_tokens,
                EOS,
            )
        )
        for number in range(count)
    ]


def _pick(draw: Random, bits: Bits) -> list[int]:
    flags = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little")
    return [draw.choice(np.flatnonzero(row).tolist()) for row in flags]


def _afresh(grammars: Grammars, sequences: list[Sequence]) -> Bits:
    again = [Sequence(one.request, output=list(one.output)) for one in sequences]
    return TokenMasks(lambda: grammars).allowed(again)


def _steps(masks: TokenMasks, sequences: list[Sequence], count: int) -> Iterator[list[int]]:
    """Tokens that may come, after masks were begun for them; a caller makes them come, or not."""
    draw = Random(len(sequences))
    for _ in range(count):
        tokens = _pick(draw, masks.allowed(sequences))
        masks.begin(sequences, tokens)
        yield tokens


def test_masks_made_ahead_are_those_of_the_tokens(masks: TokenMasks, grammars: Grammars) -> None:
    sequences = _sequences(9)
    for tokens in _steps(masks, sequences, 12):
        for sequence, token in zip(sequences, tokens, strict=True):
            sequence.output.append(token)
        assert np.array_equal(masks.allowed(sequences), _afresh(grammars, sequences))


def test_rows_may_leave_and_change_places(masks: TokenMasks, grammars: Grammars) -> None:
    draw, everyone = Random(0), _sequences(9)
    for _ in range(20):
        some = draw.sample(everyone, draw.randint(1, 9))
        tokens = _pick(draw, masks.allowed(some))
        masks.begin(some, tokens)
        for sequence, token in zip(some, tokens, strict=True):
            sequence.output.append(token)
        others = draw.sample(everyone, 5)
        assert np.array_equal(masks.allowed(others), _afresh(grammars, others))


def test_tokens_that_do_not_come_are_taken_back(masks: TokenMasks, grammars: Grammars) -> None:
    sequences = _sequences(6)
    other = Random(1)
    for _ in _steps(masks, sequences, 8):
        before = masks.allowed(sequences)  # nothing came
        assert np.array_equal(before, _afresh(grammars, sequences))
        tokens = _pick(other, before)
        masks.begin(sequences, _pick(other, before))
        for sequence, token in zip(sequences, tokens, strict=True):
            sequence.output.append(token)
        assert np.array_equal(masks.allowed(sequences), _afresh(grammars, sequences))


def test_who_comes_back_late_is_not_lost(masks: TokenMasks, grammars: Grammars) -> None:
    late, *others = _sequences(4)
    for _ in range(2):
        (token,) = _pick(Random(0), masks.allowed([late]))
        masks.begin([late], [token])
        late.output.append(token)
        for tokens in _steps(masks, others, 12):
            for sequence, token in zip(others, tokens, strict=True):
                sequence.output.append(token)
        assert np.array_equal(masks.allowed([late]), _afresh(grammars, [late]))


def test_no_mask_is_made_twice_however_many_batches_are_in_flight(
    masks: TokenMasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, batches = Random(3), [[one] for one in _sequences(32)]
    for batch in batches:
        (token,) = _pick(draw, masks.allowed(batch))
        masks.begin(batch, [token])
        batch[0].output.append(token)
    monkeypatch.setattr(MaskMaker, "make", _fail)
    going_on = [batch for batch in batches if batch[0].output[-1] not in EOS]
    assert len(going_on) > 16
    for batch in going_on:
        masks.allowed(batch)


def _fail(*_: object) -> Bits:
    raise AssertionError("a mask is made again")


def test_nothing_is_made_for_answers_that_end(masks: TokenMasks) -> None:
    at_its_length, ended = _sequences(1, max_tokens=1)[0], _sequences(1)[0]
    masks.allowed([at_its_length, ended])
    masks.begin([at_its_length, ended], [9, min(EOS)])
    assert not masks._begun


def test_the_thread_ends_with_its_masks(grammars: Grammars) -> None:
    masks = TokenMasks(lambda: grammars)
    sequences = _sequences(3)
    for _ in _steps(masks, sequences, 1):
        pass
    (thread,) = [one for one in threading.enumerate() if one.name.startswith("token masks")]
    gc.disable()  # nothing is to be left to it
    try:
        del masks, _
        thread.join(60)
    finally:
        gc.enable()
    assert not thread.is_alive()
