"""How large a step may be, and how many may be under way."""

from dataclasses import dataclass
from math import ceil

from glinthawk.core.rope import LengthRope

__all__ = ["MOST_IN_FLIGHT", "BatchLimits", "DraftLimits", "batches_to_hide", "most_scored_rows"]

#: Batches that ``auto`` has under way for each pipeline slice, however slow the links. A pass that
#: waits keeps tensors of its rows: with 2,048 rows of 8,192 values, a residual and an attention
#: output are 64 MiB in 16 bits, so 32 such passes have 2 GiB, which a GPU full of weights can
#: spare; and KV memory for more batches than that is rare. Who has both says how many.
MOST_IN_FLIGHT = 32
#: Attention over Tier 1's time for a layer: nothing hides attention that is slower than Tier 1.
_ATTENTION = 0.9
#: Of what hides a link's time alone, so many times as much hides it for batches that are in each
#: other's way: while one computes its logits, which take as long as several layers, the others
#: gather behind it. With logits of a quarter of the step, simulated and measured: 1.0 keeps Tier 1
#: busy for 0.77 of the time, 1.1 for 0.83, 1.3 for 0.95.
_LINK_SLACK = 1.3
#: Logits of scored rows that a step makes, in float32: 512 rows of a vocabulary of 128k.
_SCORED_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class DraftLimits:
    """Of the tokens that are guessed."""

    #: Behind a decode row.
    most: int
    #: (rows, seconds) of a step, as in ``StepCost``, by which drafts are only as long as they pay.
    #: None: as long as there is something to guess.
    dense: tuple[tuple[int, float], ...] | None = None
    #: To workers and back over all layers, beside that.
    link_s: float = 0.0


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Of the batches of a run."""

    batch_size: int
    batches_in_flight: int
    batch_tokens: int
    #: Whether prompts, too, are attended where their KV lies (batch-invariant).
    prompts_at_home: bool = False
    #: Rows of prompts that one step may score: there are logits of each.
    scored_rows: int = 1 << 30
    #: None: nothing is guessed.
    drafts: DraftLimits | None = None
    #: None: a token's K and V are the same in any sequence that begins alike.
    rope: LengthRope | None = None


def most_scored_rows(vocab_size: int) -> int:
    """Rows of prompts that a step may score, at least one.

    >>> most_scored_rows(131072), most_scored_rows(4096)
    (512, 16384)
    """
    return max(1, _SCORED_BYTES // (4 * vocab_size))


def batches_to_hide(link_s: float, dense_s: float, num_slices: int = 1) -> int:
    """Batches that keep Tier 1 busy: ceil(n (1 + t_attention / t_dense) + 1.3 t_link / t_dense),
    which is Lamina's staggering (arXiv 2405.01814, section 4.3) with the links' time added.

    ``dense_s`` is the slowest of n slices', ``link_s`` that of all their links together; both of a
    layer, or of all.

    >>> batches_to_hide(0.0001, 0.005), batches_to_hide(0.020, 0.005)  # one host, a slow link
    (2, 8)
    """
    share = _LINK_SLACK * link_s / dense_s if dense_s else 0.0
    return min(ceil((1 + _ATTENTION) * num_slices + share), num_slices * MOST_IN_FLIGHT)
