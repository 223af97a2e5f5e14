"""Of sequences with structured outputs: the tokens that may come next."""

import logging
from collections.abc import Callable
from collections.abc import Sequence as Many
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from llguidance import LLExecutor, LLMatcher
from llguidance.numpy import fill_next_token_bitmask_par

from glinthawk.core.errors import ModelError
from glinthawk.core.sequence import Sequence
from glinthawk.tokens.grammars import Grammars

__all__ = ["TokenMasks"]

_log = logging.getLogger(__name__)


class _State:
    """Where one answer stands in its grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        self.matcher = matcher
        self.has_failed = False
        #: Tokens of the answer that are taken in.
        self.num_known = 0

    def catch_up(self, output: list[int]) -> None:
        """Take in the tokens that have come since the last call; answers only grow."""
        assert len(output) >= self.num_known
        for token in output[self.num_known :]:
            if not self.matcher.is_stopped():  # it is complete: what comes then is no part of it
                self.matcher.consume_token(token)
        self.num_known = len(output)


class TokenMasks:
    """Follows answers by their tokens alone: a sequence that comes from elsewhere, or again, is
    caught up with. ``load`` is called when the first one comes."""

    def __init__(self, load: Callable[[], Grammars]) -> None:
        self._load = load
        #: A sequence that is gone takes its state along; one that is pre-empted keeps it.
        self._states: WeakKeyDictionary[Sequence, _State] = WeakKeyDictionary()

    def allowed(self, sequences: Many[Sequence], vocab_size: int) -> npt.NDArray[np.bool_]:
        """(S, V): whether a token may come next. Raises ModelError where the model here takes no
        grammars."""
        states = [self._advance(sequence) for sequence in sequences]
        num_tokens = self._grammars.num_tokens
        bits = np.zeros((len(states), -(-num_tokens // 32)), np.int32)
        pairs = [(state.matcher, row) for row, state in enumerate(states)]
        fill_next_token_bitmask_par(self._executor, pairs, bits)
        flags = np.zeros((len(states), vocab_size), np.bool_)
        known = min(vocab_size, num_tokens)
        octets = bits.view(np.uint8)
        flags[:, :known] = np.unpackbits(octets, axis=1, count=known, bitorder="little")
        for row, (sequence, state) in enumerate(zip(sequences, states, strict=True)):
            if state.matcher.is_error():
                _report(sequence, state)
                _forbid_end(flags[row], sequence)
        return flags

    def _advance(self, sequence: Sequence) -> _State:
        state = self._states.get(sequence)
        if state is None or state.num_known > len(sequence.output):
            # In the latter case tokens were sampled that it never got: its batch was lost.
            state = self._states[sequence] = _State(self._begin(sequence))
        state.catch_up(sequence.output)
        return state

    def _begin(self, sequence: Sequence) -> LLMatcher:
        wanted = sequence.request.params.structured_outputs
        assert wanted is not None
        try:
            return self._grammars.matcher(wanted, sequence.request.eos_token_ids)
        except ValueError as error:
            raise ModelError(
                f"structured outputs cannot be sampled here ({error}); the model's folder needs "
                "the files of its tokenizer on the last node, too"
            ) from error

    @cached_property
    def _grammars(self) -> Grammars:
        return self._load()

    @cached_property
    def _executor(self) -> LLExecutor:
        return LLExecutor(torch.get_num_threads())


def _report(sequence: Sequence, state: _State) -> None:
    """Once."""
    if not state.has_failed:
        state.has_failed = True
        name = sequence.request.name or sequence.request.id
        reason = " ".join(state.matcher.get_error().split())[:200]
        _log.warning("request %s: its grammar cannot be followed any more (%s)", name, reason)


def _forbid_end(flags: npt.NDArray[np.bool_], sequence: Sequence) -> None:
    """An answer that nobody follows runs out of length: a stop would say that it fits."""
    flags[:] = True
    flags[[token for token in sequence.request.stop_ids if token < len(flags)]] = False
