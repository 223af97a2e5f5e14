"""A model's tokenizer, and grammars over its tokens."""
