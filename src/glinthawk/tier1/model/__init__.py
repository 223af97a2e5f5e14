"""A model made ready: found, loaded, sliced, learned and checked."""
