"""What a model says of its own answers: how tokens are sampled, and which end one."""

from pathlib import Path
from typing import Any

from glinthawk.core.errors import ModelError

__all__ = ["load_eos_token_ids", "load_sampling_defaults"]

#: The fields that vLLM takes, by the names of SamplingParams.
_TAKEN = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
}


def load_sampling_defaults(model: str | Path) -> dict[str, Any]:
    """Parameters of SamplingParams that generation_config.json of ``model`` gives."""
    config = _load_config(model)
    given = {} if config is None else config.to_diff_dict()
    return {ours: given[theirs] for theirs, ours in _TAKEN.items() if given.get(theirs) is not None}


def load_eos_token_ids(model: str | Path, trust: bool = False) -> frozenset[int]:
    """Token ids that end an answer. Raises ModelError for a model without configuration."""
    from transformers import AutoConfig

    generation = _load_config(model)
    ids = None if generation is None else generation.eos_token_id
    if ids is None:
        try:
            config = AutoConfig.from_pretrained(str(model), trust_remote_code=trust)
        except (OSError, ValueError) as error:
            raise ModelError(f"config.json of {model} cannot be read: {error}") from error
        ids = getattr(config.get_text_config(), "eos_token_id", None)
    if ids is None:
        return frozenset()
    return frozenset([ids] if isinstance(ids, int) else ids)


def _load_config(model: str | Path) -> Any | None:
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(str(model))
    except OSError:
        return None
