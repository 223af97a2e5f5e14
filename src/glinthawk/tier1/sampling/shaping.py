"""Biases, penalties and the ban on ending early for all rows at once; plainly:
``sampling_reference.shape_logits``."""

from collections.abc import Sequence as Many
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch

from glinthawk.core.sequence import Sequence
from glinthawk.tier1.sampling.token_rules import COLUMNS, TokenRules

__all__ = ["LogitEdits", "edit_logits"]

_Floats = npt.NDArray[np.float32]

_NOTHING = np.zeros((len(COLUMNS), 0))


class LogitEdits(NamedTuple):
    """Logits (S, V) that take others' place: few of each row, so that no row need be copied."""

    #: Where each row's entries begin, and where the last one's end (S + 1,).
    offsets: npt.NDArray[np.int64]
    #: Distinct in each row (N,).
    tokens: npt.NDArray[np.int64]
    #: float32 (N,), on the logits' device.
    values: torch.Tensor

    def apply(self, logits: torch.Tensor, first: int = 0) -> torch.Tensor:
        """A float32 copy of ``logits`` (R, V), the rows from ``first`` on, with its entries."""
        offsets = self.offsets[first : first + len(logits) + 1]
        rows = np.repeat(np.arange(len(logits)), np.diff(offsets))
        here = slice(int(offsets[0]), int(offsets[-1]))
        copy = logits.to(torch.float32, copy=True)
        copy[torch.from_numpy(rows), torch.from_numpy(self.tokens[here])] = self.values[here]
        return copy


#: A sequence that is gone takes its table along; one that is pre-empted keeps it.
_RULES: WeakKeyDictionary[Sequence, TokenRules] = WeakKeyDictionary()


@np.errstate(over="ignore", invalid="ignore")
def edit_logits(sequences: Many[Sequence], logits: torch.Tensor) -> LogitEdits | None:
    """What the parameters of the S sequences make of ``logits`` (S, V): repetition, then frequency
    and presence, then biases, then the ban. Tokens beyond the vocabulary are passed over. None if
    nothing changes."""
    if not any(sequence.request.params.shapes_logits for sequence in sequences):
        return None
    tables = [_table(sequence) for sequence in sequences]
    rows = np.repeat(np.arange(len(tables)), [its.shape[1] for its in tables])
    table = np.concatenate(tables, axis=1)
    known = table[0] < logits.shape[1]
    rows, table = rows[known], table[:, known]
    tokens = table[0].astype(np.int64)
    places = torch.from_numpy(rows), torch.from_numpy(tokens)
    old = logits[places[0].to(logits.device), places[1].to(logits.device)].float().cpu().numpy()
    strengths = np.array([_strengths(sequence) for sequence in sequences], np.float32)[rows]
    values = torch.from_numpy(_shape(old, *table[1:].astype(np.float32), *strengths.T))
    offsets = np.searchsorted(rows, np.arange(len(tables) + 1))
    return LogitEdits(offsets, tokens, values.to(logits.device))


def _table(sequence: Sequence) -> npt.NDArray[np.float64]:
    if not sequence.request.params.shapes_logits:
        return _NOTHING
    rules = _RULES.get(sequence)
    if rules is None or rules.num_known > len(sequence.output):
        # In the latter case tokens were sampled that the sequence never got: its batch was lost.
        rules = _RULES[sequence] = TokenRules(sequence)
    rules.catch_up(sequence.output)
    return rules.table if rules.is_lasting or _is_early(sequence) else _NOTHING


def _is_early(sequence: Sequence) -> bool:
    return len(sequence.output) < sequence.request.params.min_tokens


def _strengths(sequence: Sequence) -> tuple[float, float, float, float]:
    params = sequence.request.params
    penalties = params.repetition_penalty, params.frequency_penalty, params.presence_penalty
    return *penalties, float(_is_early(sequence))


def _shape(
    logits: _Floats,
    seen: _Floats,
    count: _Floats,
    bias: _Floats,
    end: _Floats,
    repetition: _Floats,
    frequency: _Floats,
    presence: _Floats,
    early: _Floats,
) -> _Floats:
    """All (N,). Here and not by torch: that would wake its threads for each operation."""
    penalised = np.where(logits > 0, logits / repetition, logits * repetition)
    logits = np.where(seen > 0, penalised, logits)
    logits = np.where(count > 0, logits - (frequency * count + presence), logits)
    logits += bias
    logits[(end * early) > 0] = -np.inf
    return logits
