"""A model whose traffic is known, and what a run sent."""

from glinthawk.engine.run import Run

__all__ = ["SHAPE", "decode_bytes"]

SHAPE = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 768,
    "num_hidden_layers": 3,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "intermediate_size": 512,
    "vocab_size": 300,
    "max_position_embeddings": 256,
    "dtype": "bfloat16",
}


def decode_bytes(run: Run) -> tuple[int, int]:
    usage = run.tier1.usage()
    return usage.decode_bytes_out, usage.decode_bytes_back
