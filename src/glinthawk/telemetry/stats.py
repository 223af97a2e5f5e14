"""The numbers of a run, as ``--stats-json`` writes them."""

import msgspec

__all__ = ["RunStats"]


class RunStats(msgspec.Struct, kw_only=True):
    """Counts, seconds and bytes of one run. Shares are of the run's wall time."""

    requests: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    #: Those whose KV another sequence had there already, counted at every admission.
    prompt_tokens_shared: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    tokens_per_second: float = 0.0
    tier1_busy: float = 0.0
    #: One share a worker.
    tier2_busy: list[float] = msgspec.field(default_factory=list)
    #: Header frames included.
    wire_decode_bytes_out: int = 0
    wire_decode_bytes_back: int = 0
    wire_prefill_bytes: int = 0
    kv_bytes_peak: int = 0
    #: Inputs of attention that Tier 1 keeps in place of K and V.
    xcache_bytes_peak: int = 0
    preemptions: int = 0
    #: Tokens computed again after a pre-emption or a loss.
    repeated_tokens: int = 0
    #: Tokens that were guessed and computed, and those of them that were right.
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    #: Of the batches, those that would have been larger if KV memory held more.
    kv_full_share: float = 0.0
    #: Of the time, that in which lines were read and tokenized.
    input_share: float = 0.0
    #: What bound the run, in words.
    limit: str = ""
