"""The arithmetic of attention, written plainly; both tiers are compared with it."""
