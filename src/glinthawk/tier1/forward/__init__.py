"""A model's own forward pass, cut at its attention, and what makes it fast."""
