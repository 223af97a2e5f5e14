"""TIER 1: everything with weights. Runs a model's own forward, suspended at every attention."""
