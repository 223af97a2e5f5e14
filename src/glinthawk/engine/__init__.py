"""A run: the model is loaded, homes are opened, the engine turns requests into answers."""
