"""Measurements: each prints its ceiling first, then what is reached, then one JSON line."""
