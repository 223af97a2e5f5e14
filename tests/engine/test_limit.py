"""The limit that is named is the one that binds."""

import pytest

from glinthawk.telemetry.limit import name_limit
from glinthawk.telemetry.stats import RunStats


@pytest.mark.parametrize(
    ("stats", "limit"),
    [
        (RunStats(tier1_busy=0.97, tier2_busy=[0.4, 0.3]), "Tier-1 arithmetic"),
        (RunStats(tier1_busy=0.6, tier2_busy=[0.4, 0.95]), "Tier-2 bandwidth"),
        (RunStats(tier1_busy=0.97, tier2_busy=[0.4], kv_full_share=0.8), "KV memory"),
        (RunStats(tier1_busy=0.5, tier2_busy=[0.2]), "link"),
        (RunStats(tier1_busy=0.5, tier2_busy=[0.2], input_share=0.4), "input"),
        (RunStats(tier1_busy=0.95), "Tier-1 arithmetic"),
        (RunStats(tier1_busy=0.5), "too few sequences"),
    ],
)
def test_what_binds_is_named(stats: RunStats, limit: str) -> None:
    assert limit in name_limit(stats)
