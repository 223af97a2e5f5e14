"""A job that a running server answers."""
