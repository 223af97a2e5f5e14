"""What the tiers say to each other, and how it travels. Knows bytes, never tensors."""
