"""Keywords of vLLM's ``LLM`` that are not ours, and what does their work here."""

from collections.abc import Iterable

from glinthawk.core.nearest import advise_name

__all__ = ["VLLM_SETTINGS", "explain_unknown"]

VLLM_SETTINGS = {
    "tensor_parallel_size": "not here; cut the model into slices over machines or GPUs with "
    "cluster='ray' and slices",
    "pipeline_parallel_size": "use cluster='ray' and slices",
    "data_parallel_size": "run one job for each part of the prompts",
    "distributed_executor_backend": "use cluster='ray'",
    "gpu_memory_utilization": "say how much KV cache there is with tier1_kv, like '8GiB'",
    "kv_cache_memory_bytes": "use tier1_kv",
    "swap_space": "use worker_storage, or workers in tier2",
    "cpu_offload_gb": "KV cache lies elsewhere with tier2; weights stay on Tier 1",
    "kv_cache_dtype": "use kv_dtype",
    "max_num_seqs": "use batch_size",
    "max_num_batched_tokens": "use batch_tokens",
    "speculative_config": "use speculation='prompt-lookup' or 'auto', and num_speculative_tokens",
    "enforce_eager": "use dense='plain'",
    "tokenizer": "a model's folder holds its own tokenizer",
    "tokenizer_mode": "a model's folder says which one it is",
    "skip_tokenizer_init": "a folder without tokenizer files takes prompts as token ids",
    "quantization": "config.json says how weights are stored, and they are kept so",
    "enable_prefix_caching": "leave it out; prompts with a common beginning always share it",
    "enable_chunked_prefill": "leave it out; long prompts are always cut, see batch_tokens",
    "disable_log_stats": "leave it out; stats has the numbers of a run",
    "enable_lora": "leave it out; give adapters with the model, lora=['NAME=PATH']",
    "max_loras": "leave it out; all adapters of lora= are ready at any time",
    "max_lora_rank": "leave it out; an adapter's own settings say it",
    "max_cpu_loras": "leave it out; all adapters of lora= are ready at any time",
    "revision": "download that revision and give its folder as model",
    "download_dir": "set HF_HOME, or give a folder as model",
}


def explain_unknown(name: str, known: Iterable[str]) -> str:
    """What somebody may do who gave ``LLM`` the setting ``name``."""
    instead = VLLM_SETTINGS.get(name)
    return instead or advise_name(name, known, "help(glinthawk.LLM) lists its settings")
