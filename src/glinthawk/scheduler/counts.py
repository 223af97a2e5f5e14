"""What a scheduler counts over a whole run."""

from dataclasses import dataclass

__all__ = ["Counts"]


@dataclass(slots=True)
class Counts:
    """So far."""

    #: Batches formed.
    batches: int = 0
    #: Tokens of answers, also of those that have not ended.
    tokens: int = 0
    #: Sequences that were given a home, and that gave up their KV for others.
    admissions: int = 0
    preemptions: int = 0
    #: Tokens of prompts whose KV was there already, at another sequence.
    shared_tokens: int = 0
    #: Tokens whose KV was given up or lost, and was computed again.
    repeated_tokens: int = 0
    #: Batches that would have been larger if a home had more room.
    cramped: int = 0
    #: Tokens that were guessed and computed, and those of them that were right.
    drafted_tokens: int = 0
    accepted_tokens: int = 0
