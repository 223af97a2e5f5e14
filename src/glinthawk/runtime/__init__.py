"""A run: homes are opened, the model is loaded, the engine turns requests into answers."""
