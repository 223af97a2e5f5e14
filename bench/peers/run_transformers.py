"""Runner of transformers' continuous batching."""

import torch
from protocol import Generate, Settings, serve
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig


def load(settings: Settings) -> Generate:
    torch.set_num_threads(settings.threads)
    model = AutoModelForCausalLM.from_pretrained(
        settings.model, dtype=torch.bfloat16, attn_implementation="sdpa"
    )
    batching = ContinuousBatchingConfig(
        max_batch_tokens=settings.batch_tokens,
        max_requests_per_batch=settings.batch_size,
        allow_block_sharing=True,
    )
    batching.num_blocks = settings.kv_tokens // batching.page_size

    def generate(prompts: list[list[int]], new: int) -> list[list[int]]:
        rules = GenerationConfig(max_new_tokens=new, do_sample=False, eos_token_id=-1)
        answers = model.generate_batch(
            prompts,
            generation_config=rules,
            continuous_batching_config=batching,
            persistent_manager=True,
            max_new_tokens=new,
        )
        return [answer.generated_tokens for answer in answers.values()]

    return generate


if __name__ == "__main__":
    serve(load, "transformers", "torch")
