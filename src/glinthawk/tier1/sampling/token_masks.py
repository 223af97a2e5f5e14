"""Of sequences with structured outputs: the tokens that may come next."""

import logging
from collections.abc import Callable
from collections.abc import Sequence as Many
from functools import cached_property, partial
from weakref import WeakKeyDictionary

import numpy as np
from llguidance import LLMatcher

from glinthawk.core.errors import ModelError
from glinthawk.core.sequence import Request, Sequence
from glinthawk.tier1.sampling.answer_state import AnswerState
from glinthawk.tier1.sampling.mask_rounds import MaskMaker, MaskRound
from glinthawk.tier1.sampling.row_masks import Bits
from glinthawk.tokens.grammars import Grammars

__all__ = ["TokenMasks"]

_log = logging.getLogger(__name__)


class TokenMasks:
    """Follows answers by their tokens alone: a sequence that comes from elsewhere, or again, is
    caught up with. ``load`` is called when the first one comes."""

    def __init__(self, load: Callable[[], Grammars]) -> None:
        self._load = load
        self._maker = MaskMaker()
        #: A sequence that is gone takes its state along; one that is pre-empted keeps it.
        self._states: WeakKeyDictionary[Sequence, AnswerState] = WeakKeyDictionary()
        #: Where a mask is that was begun: the round, and the row there.
        self._begun: WeakKeyDictionary[Sequence, tuple[MaskRound, int]] = WeakKeyDictionary()

    def allowed(self, sequences: Many[Sequence]) -> Bits:
        """(S, W): what may follow each one's tokens; the caller's own. Raises ModelError where the
        model here takes no grammars."""
        ready = [self._take(sequence) for sequence in sequences]
        states = [self._states[sequence] for sequence in sequences]
        bits = self._gather(states, ready)
        for row, (sequence, state) in enumerate(zip(sequences, states, strict=True)):
            if state.matcher.is_error():
                _report(sequence, state)
                bits[row] = _all_but_ends(sequence, bits.shape[1])
        return bits

    def begin(self, sequences: Many[Sequence], tokens: Many[int]) -> None:
        """Make what may follow each one's tokens and its one of ``tokens``, beside what runs here:
        ``allowed`` finds it ready if that is what came."""
        going_on = [
            (sequence, self._states[sequence], token)
            for sequence, token in zip(sequences, tokens, strict=True)
            if token not in sequence.request.stop_ids and sequence.remaining > 1
        ]
        told = [(one, state, token) for one, state, token in going_on if state.expect(token)]
        if not told:
            return
        pairs = [(state.matcher, token) for _, state, token in told]
        begun = self._maker.begin(pairs, self._num_words)
        for row, (sequence, _, _) in enumerate(told):
            self._begun[sequence] = begun, row

    def _take(self, sequence: Sequence) -> tuple[Bits, int] | None:
        """The mask, if it is ready: (R, W), and the row there. The state is caught up with."""
        begun, row = self._begun.pop(sequence, (None, 0))
        bits = None if begun is None else begun.wait()
        state = self._states.get(sequence)
        if state is None:
            start = partial(_start, self._grammars, sequence.request)
            state = self._states[sequence] = AnswerState(start)
        was_there = state.catch_up(sequence.output)
        return (bits, row) if bits is not None and was_there else None

    def _gather(self, states: list[AnswerState], ready: list[tuple[Bits, int] | None]) -> Bits:
        if (whole := _whole_round(ready)) is not None:
            return whole
        bits = np.empty((len(states), self._num_words), np.int32)
        for row, one in enumerate(ready):
            if one is not None:
                bits[row] = one[0][one[1]]
        missing = [row for row, one in enumerate(ready) if one is None]
        if missing:
            matchers = [states[row].matcher for row in missing]
            bits[missing] = self._maker.make(matchers, self._num_words)
        return bits

    @cached_property
    def _grammars(self) -> Grammars:
        return self._load()

    @cached_property
    def _num_words(self) -> int:
        return -(-self._grammars.num_tokens // 32)


def _start(grammars: Grammars, request: Request) -> LLMatcher:
    wanted = request.params.structured_outputs
    assert wanted is not None
    try:
        return grammars.matcher(wanted, request.eos_token_ids)
    except ValueError as error:
        raise ModelError(
            f"structured outputs cannot be sampled here ({error}); the model's folder needs "
            "the files of its tokenizer on the last node, too"
        ) from error


def _whole_round(ready: list[tuple[Bits, int] | None]) -> Bits | None:
    """The bits of a round whose rows these are, all and in order: then none is copied."""
    rounds = {id(one[0]): one[0] for one in ready if one is not None}
    rows = [one[1] for one in ready if one is not None]
    (bits, *others) = rounds.values() or [None]
    is_whole = bits is not None and not others and len(bits) == len(ready)
    return bits if is_whole and rows == list(range(len(ready))) else None


def _report(sequence: Sequence, state: AnswerState) -> None:
    """Once."""
    if not state.has_failed:
        state.has_failed = True
        name = sequence.request.name or sequence.request.id
        reason = " ".join(state.matcher.get_error().split())[:200]
        _log.warning("request %s: its grammar cannot be followed any more (%s)", name, reason)


def _all_but_ends(sequence: Sequence, num_words: int) -> Bits:
    """(1, W). An answer that nobody follows runs out of length: a stop would say that it fits."""
    flags = np.ones((1, 32 * num_words), np.bool_)
    flags[0, [token for token in sequence.request.stop_ids if token < flags.shape[1]]] = False
    return np.packbits(flags, axis=1, bitorder="little").view(np.int32)
