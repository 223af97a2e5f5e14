"""Weights that stay quantised, and products with them."""
