"""Which pages hold whose KV, in memory and on drives; numbers and files, never tensors."""
