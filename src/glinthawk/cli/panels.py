"""Under which title an option stands in the help of its command; the common ones come first."""

__all__ = ["COMMON", "TITLES", "panel_of", "placed_options"]

COMMON = "Options"

_PANELS = {
    COMMON: "model input output tier2 tier1_kv worker_kv config restart retry_errors errors quiet",
    "Server": "server api_key completion_window",
    "Model": "lora dtype device load_format trust_remote_code dense max_model_len",
    "Tiers": "cluster slices workers_per_slice plan split_attention identity worker_timeout "
    "wait_for_workers",
    "KV cache": "kv_dtype worker_storage kv_placement xcache xcache_memory",
    "Batches": "batch_size batches_in_flight batch_tokens speculation num_speculative_tokens "
    "batch_invariant",
    "Sampling": "seed generation_config",
    "Lines": "strict served_model_name tool_call_parser reasoning_parser reranker",
    "Tables": "prompt_column messages_column template id_column endpoint body max_tokens "
    "temperature split keep_columns",
    "Files": "shard work_dir text_processes stats_json",
    "Diagnosis": "dashboard trace event_log log_json",
}
#: In the order of a page.
TITLES = tuple(_PANELS)
_OF = {name: title for title, names in _PANELS.items() for name in names.split()}


def panel_of(name: str) -> str:
    """Of ``glinthawk run``; an option that nobody has placed is a common one."""
    return _OF.get(name, COMMON)


def placed_options() -> set[str]:
    """All that have a place, but for ``help``."""
    return {*_OF}
