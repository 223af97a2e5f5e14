"""What the tiers did so far, as they count it themselves."""

from collections.abc import Iterable

import msgspec

__all__ = ["Usage"]


class Usage(msgspec.Struct):
    """Seconds of work, one number for each node and each worker; bytes over all their links."""

    tier1_busy_s: list[float] = msgspec.field(default_factory=list)
    tier2_busy_s: list[float] = msgspec.field(default_factory=list)
    decode_bytes_out: int = 0
    decode_bytes_back: int = 0
    prefill_bytes: int = 0
    kv_bytes_peak: int = 0
    xcache_bytes_peak: int = 0

    @classmethod
    def total(cls, parts: Iterable["Usage"]) -> "Usage":
        """Of several nodes, in their order."""
        usages = list(parts)
        return cls(
            [busy for usage in usages for busy in usage.tier1_busy_s],
            [busy for usage in usages for busy in usage.tier2_busy_s],
            sum(usage.decode_bytes_out for usage in usages),
            sum(usage.decode_bytes_back for usage in usages),
            sum(usage.prefill_bytes for usage in usages),
            sum(usage.kv_bytes_peak for usage in usages),
            sum(usage.xcache_bytes_peak for usage in usages),
        )
