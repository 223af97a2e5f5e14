"""What rules make of logits: batched, and plainly for one row."""
