"""LoRA adapters: how PEFT stores them, and how a model comes to compute with them."""
