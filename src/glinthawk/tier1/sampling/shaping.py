"""Biases, penalties and the ban on ending early for all rows at once; plainly:
``sampling_reference.shape_logits``."""

from collections.abc import Iterable
from collections.abc import Sequence as Many
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch

from glinthawk.core.sequence import Sequence
from glinthawk.tier1.sampling.token_counts import TokenCounts

__all__ = ["is_shaped", "shape_rows"]

_Ids = npt.NDArray[np.int64]
_NONE: _Ids = np.zeros(0, np.int64)


class _LogitRules:
    """What a sequence's logits go through: its constants as arrays, and its tokens counted."""

    def __init__(self, sequence: Sequence) -> None:
        params = sequence.request.params
        self.bias_tokens = np.fromiter(params.logit_bias.keys(), np.int64)
        self.biases = np.fromiter(params.logit_bias.values(), np.float32)
        self._ends = np.fromiter(sequence.request.stop_ids, np.int64)
        self._repeats = params.repetition_penalty != 1
        self._counts = bool(params.frequency_penalty or params.presence_penalty)
        self.always = bool(params.logit_bias) or self._repeats or self._counts
        self._min_tokens = params.min_tokens
        self._known = 0
        self.seen = TokenCounts(sequence.request.prompt if self._repeats else ())
        self.produced = TokenCounts()

    def catch_up(self, output: list[int]) -> None:
        """Count the tokens that have come since the last call."""
        assert len(output) >= self._known  # answers only grow
        new = output[self._known :]
        self._known = len(output)
        if self._repeats:
            self.seen.add(new)
        if self._counts:
            self.produced.add(new)

    def bans(self, output: list[int]) -> _Ids:
        return self._ends if len(output) < self._min_tokens else _NONE


#: A sequence that is gone takes its counts along; one that is pre-empted keeps them.
_RULES: WeakKeyDictionary[Sequence, _LogitRules] = WeakKeyDictionary()


def _rules(sequence: Sequence) -> _LogitRules:
    rules = _RULES.get(sequence)
    if rules is None:
        rules = _RULES[sequence] = _LogitRules(sequence)
    return rules


def is_shaped(sequence: Sequence) -> bool:
    """Whether its next token is not chosen from the model's own logits."""
    params = sequence.request.params
    if not params.shapes_logits:
        return False
    return len(sequence.output) < params.min_tokens or _rules(sequence).always


def shape_rows(sequences: Many[Sequence], logits: torch.Tensor) -> None:
    """Change ``logits`` (R, V), float32 and contiguous, in place, as the rules of the R sequences
    say: repetition, then frequency and presence, then biases, then the ban."""
    rules = [_rules(sequence) for sequence in sequences]
    for sequence, its in zip(sequences, rules, strict=True):
        its.catch_up(sequence.output)
    params = [sequence.request.params for sequence in sequences]
    entries = _Entries(logits)
    entries.penalise([its.seen.tokens for its in rules], [p.repetition_penalty for p in params])
    produced = [its.produced for its in rules]
    entries.discount(produced, [(p.frequency_penalty, p.presence_penalty) for p in params])
    entries.add([its.bias_tokens for its in rules], [its.biases for its in rules])
    entries.ban([r.bans(s.output) for r, s in zip(rules, sequences, strict=True)])


class _Entries:
    """Logits (R, V) that are changed at some tokens of each row, no token twice in one call."""

    def __init__(self, logits: torch.Tensor) -> None:
        self._flat = logits.view(-1)
        self._vocab = logits.shape[1]

    def penalise(self, tokens: list[_Ids], penalties: list[float]) -> None:
        """Divide what is above zero by its row's penalty, and multiply what is below."""
        places, sizes = self._places(tokens)
        if len(places):
            scores, penalty = self._flat[places], self._tensor(np.repeat(penalties, sizes))
            self._flat[places] = torch.where(scores > 0, scores / penalty, scores * penalty)

    def discount(self, counts: list[TokenCounts], rules: list[tuple[float, float]]) -> None:
        """Subtract each row's (frequency penalty) x count + (presence penalty)."""
        places, sizes = self._places([one.tokens for one in counts])
        if len(places):
            times = self._tensor(np.concatenate([one.counts for one in counts]))
            frequency, presence = self._tensor(np.repeat(np.array(rules), sizes, axis=0)).unbind(1)
            self._flat[places] -= frequency * times + presence

    def add(self, tokens: list[_Ids], values: list[npt.NDArray[np.float32]]) -> None:
        """Add values to tokens; those that are beyond the vocabulary are passed over."""
        known = [its < self._vocab for its in tokens]
        places, _ = self._places([t[k] for t, k in zip(tokens, known, strict=True)])
        if len(places):
            kept = [v[k] for v, k in zip(values, known, strict=True)]
            self._flat[places] += self._tensor(np.concatenate(kept))

    def ban(self, tokens: list[_Ids]) -> None:
        """Make tokens impossible; those that are beyond the vocabulary are so."""
        places, _ = self._places([its[its < self._vocab] for its in tokens])
        if len(places):
            self._flat[places] = float("-inf")

    def _places(self, tokens: list[_Ids]) -> tuple[torch.Tensor, list[int]]:
        """Where each row's tokens are among all logits, and how many a row has."""
        sizes = [len(its) for its in tokens]
        firsts = np.repeat(np.arange(len(tokens)) * self._vocab, sizes)
        places = torch.from_numpy(np.concatenate(tokens) + firsts)
        return places.to(self._flat.device), sizes

    def _tensor(self, values: Iterable[object]) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values, np.float32)).to(self._flat.device)
