"""X in place of K and V: what attention was given, kept on Tier 1 for a share of the context."""
