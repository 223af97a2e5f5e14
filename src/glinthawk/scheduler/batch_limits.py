"""How large a step may be, and how many may be under way."""

from dataclasses import dataclass

__all__ = ["BatchLimits"]


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Of the batches of a run."""

    batch_size: int
    batches_in_flight: int
    batch_tokens: int
    #: Whether prompts, too, are attended where their KV lies (batch-invariant).
    prompts_at_home: bool = False
