"""Weights that stay quantised: how checkpoints store them, and products from them."""
