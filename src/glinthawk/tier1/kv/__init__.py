"""Where the KV cache lies, as Tier 1 sees it: homes, and the links to their workers."""
