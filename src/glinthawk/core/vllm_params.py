"""Sampling parameters of vLLM's that change no answer here, or cannot be had: scripts that were
written for vLLM give them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any

from glinthawk.core.setting import Setting

__all__ = ["RequestOutputKind", "VllmParams", "check_vllm_params"]


class RequestOutputKind(Enum):
    """What ``AsyncLLM`` gives while an answer grows."""

    #: All that there is of it, each time.
    CUMULATIVE = 0
    #: What is new.
    DELTA = 1
    #: Nothing before it is finished.
    FINAL_ONLY = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmParams:
    """Checked by ``check_vllm_params``."""

    output_kind: Annotated[
        RequestOutputKind, Setting("What `AsyncLLM` gives while the answer grows.")
    ] = RequestOutputKind.CUMULATIVE
    detokenize: Annotated[bool, Setting("Make text of the answer's tokens.")] = True
    spaces_between_special_tokens: Annotated[bool, Setting("Changes nothing here.")] = True
    skip_reading_prefix_cache: Annotated[bool | None, Setting("Changes nothing here.")] = None
    skip_clone: Annotated[bool, Setting("Changes nothing here.")] = False
    best_of: Annotated[int | None, Setting("As many as `n`, or None.")] = None
    flat_logprobs: Annotated[bool, Setting("False.")] = False
    logits_processors: Annotated[Sequence[Any] | None, Setting("None.")] = None
    guided_decoding: Annotated[Any, Setting("None; see `structured_outputs`.")] = None
    extra_args: Annotated[Mapping[str, Any] | None, Setting("None.")] = None
    thinking_token_budget: Annotated[int | None, Setting("None.")] = None
    repetition_detection: Annotated[Any, Setting("None.")] = None


#: What to do in place of parameters that mean something which is not done.
_INSTEAD = {
    "flat_logprobs": "leave it out; logprobs are a dictionary a token",
    "logits_processors": "use logit_bias, allowed_token_ids, bad_words or structured_outputs",
    "guided_decoding": "use structured_outputs, with a StructuredOutputsParams",
    "extra_args": "leave it out; no processor is there to read it",
    "thinking_token_budget": "use max_tokens",
    "repetition_detection": "use repetition_penalty or frequency_penalty, and max_tokens",
}


def check_vllm_params(params: VllmParams, num_answers: int, has_stops: bool) -> None:
    """Raise ValueError that names a parameter which cannot be had as it is given."""
    for name, advice in _INSTEAD.items():
        if value := getattr(params, name):
            raise ValueError(f"{name} cannot be {value!r} here: {advice}")
    if params.best_of not in (None, num_answers):
        raise ValueError(
            f"best_of cannot be {params.best_of!r} here: ask for n answers with logprobs, and take "
            "the one with the best cumulative_logprob"
        )
    if not isinstance(params.output_kind, RequestOutputKind):
        raise ValueError(f"output_kind must be a RequestOutputKind, not {params.output_kind!r}")
    if has_stops and not params.detokenize:
        raise ValueError(
            "detokenize must be True with stop, which is looked for in text; use stop_token_ids"
        )
