"""TIER 2: the KV cache and the attention over it, computed where the cache lies."""
