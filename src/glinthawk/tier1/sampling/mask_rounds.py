"""Masks that are made beside what else runs: for the answers of one step, all at once."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from weakref import ReferenceType, ref

import numpy as np
import torch
from llguidance import LLExecutor, LLMatcher
from llguidance.numpy import consume_token_par, fill_next_token_bitmask_par

from glinthawk.tier1.sampling.row_masks import Bits

__all__ = ["MaskMaker", "MaskRound"]

#: Threads that a step's pass leaves to masks: a share of torch's, as they take little.
_SHARE = 4
#: Of masks that nobody has taken yet. Who comes back later, as after a pre-emption, has its mask
#: made again.
_MOST_BYTES = 128 << 20


class MaskRound:
    """Bits (R, W) that are there once ``wait`` returns, for as long as they are kept."""

    def __init__(self, made: "Future[Bits]", num_bytes: int) -> None:
        self._made: Future[Bits] | None = made
        self._bits: Bits | None = None
        self.num_bytes = num_bytes

    def wait(self) -> Bits | None:
        """None if they are gone."""
        if self._made is not None:  # once, for every row asks
            self._bits, self._made = self._made.result(), None
        return self._bits

    @property
    def is_kept(self) -> bool:
        return self._made is not None or self._bits is not None

    def forget(self) -> None:
        """Wait, for matchers belong to the thread till then, and let the memory go."""
        self.wait()
        self._bits = None


class MaskMaker:
    """Has one thread of its own, which ends with it, and asks llguidance's threads for the rest."""

    def __init__(self) -> None:
        #: As long as somebody else keeps them.
        self._rounds: deque[ReferenceType[MaskRound]] = deque()

    def make(self, matchers: list[LLMatcher], num_words: int) -> Bits:
        """(R, W): what may follow now."""
        return _fill(self._executor, matchers, num_words)

    def begin(self, pairs: list[tuple[LLMatcher, int]], num_words: int) -> MaskRound:
        """What may follow once each matcher has taken its token in; the matchers are not to be
        touched before the round is waited for."""
        made = self._thread.submit(_advance, self._executor, pairs, num_words)
        begun = MaskRound(made, 4 * num_words * len(pairs))
        self._rounds.append(ref(begun))
        self._bound()
        return begun

    def _bound(self) -> None:
        """Let the oldest go, where they are too much together."""
        kept = [one for each in self._rounds if (one := each()) is not None]
        num_bytes = sum(one.num_bytes for one in kept)
        for one in kept[:-1]:
            if num_bytes <= _MOST_BYTES:
                break
            num_bytes -= one.num_bytes
            one.forget()
        self._rounds = deque(ref(one) for one in kept if one.is_kept)

    @cached_property
    def _executor(self) -> LLExecutor:
        return LLExecutor(max(1, torch.get_num_threads() // _SHARE))

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, "token masks")


def _advance(executor: LLExecutor, pairs: list[tuple[LLMatcher, int]], num_words: int) -> Bits:
    consume_token_par(executor, pairs)
    return _fill(executor, [matcher for matcher, _ in pairs], num_words)


def _fill(executor: LLExecutor, matchers: list[LLMatcher], num_words: int) -> Bits:
    bits = np.zeros((len(matchers), num_words), np.int32)
    places = [(matcher, row) for row, matcher in enumerate(matchers)]
    fill_next_token_bitmask_par(executor, places, bits)
    return bits
