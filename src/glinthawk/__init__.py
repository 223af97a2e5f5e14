"""Offline LLM inference on two tiers.

>>> from glinthawk import LLM, SamplingParams
>>> with LLM("demo", tier2="local:2") as llm:
...     outputs = llm.generate(["The list type is"], SamplingParams(temperature=0, max_tokens=32))

What ``__all__`` lists is public; everything else may change.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from glinthawk.core.errors import (
    GlinthawkError,
    ModelError,
    RequestError,
    UnsupportedModel,
    UsageError,
    WorkerError,
    WorkerLost,
    WorkerRefused,
)
from glinthawk.core.lora_request import LoRARequest
from glinthawk.core.pooling_params import PoolingParams
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.structured_outputs import StructuredOutputsParams
from glinthawk.core.vllm_params import RequestOutputKind

if TYPE_CHECKING:
    from glinthawk.jobs.pooling_outputs import (
        EmbeddingOutput,
        EmbeddingRequestOutput,
        ScoringOutput,
        ScoringRequestOutput,
    )
    from glinthawk.jobs.vllm_logprobs import Logprob
    from glinthawk.llm.async_llm import AsyncLLM
    from glinthawk.llm.llm import LLM
    from glinthawk.llm.prompt_reader import Messages, Prompt
    from glinthawk.llm.request_outputs import CompletionOutput, RequestOutput
    from glinthawk.telemetry.stats import RunStats

__all__ = [
    "LLM",
    "AsyncLLM",
    "CompletionOutput",
    "EmbeddingOutput",
    "EmbeddingRequestOutput",
    "GlinthawkError",
    "LoRARequest",
    "Logprob",
    "Messages",
    "ModelError",
    "PoolingParams",
    "Prompt",
    "RequestError",
    "RequestOutput",
    "RequestOutputKind",
    "RunStats",
    "SamplingParams",
    "ScoringOutput",
    "ScoringRequestOutput",
    "StructuredOutputsParams",
    "UnsupportedModel",
    "UsageError",
    "WorkerError",
    "WorkerLost",
    "WorkerRefused",
    "__version__",
]

__version__ = "0.1.0"

#: Where names are that need torch, which takes seconds to import.
_LAZY = {
    "LLM": "llm.llm",
    "AsyncLLM": "llm.async_llm",
    "CompletionOutput": "llm.request_outputs",
    "EmbeddingOutput": "jobs.pooling_outputs",
    "EmbeddingRequestOutput": "jobs.pooling_outputs",
    "Logprob": "jobs.vllm_logprobs",
    "Messages": "llm.prompt_reader",
    "Prompt": "llm.prompt_reader",
    "RequestOutput": "llm.request_outputs",
    "RunStats": "telemetry.stats",
    "ScoringOutput": "jobs.pooling_outputs",
    "ScoringRequestOutput": "jobs.pooling_outputs",
}


def __getattr__(name: str) -> Any:
    """Imported at first use."""
    if name not in _LAZY:
        raise AttributeError(f"module 'glinthawk' has no attribute {name!r}")
    return getattr(import_module(f"glinthawk.{_LAZY[name]}"), name)
