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
from glinthawk.core.pooling_params import PoolingParams
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import TokenLogprobs
from glinthawk.core.structured_outputs import StructuredOutputsParams

if TYPE_CHECKING:
    from glinthawk.jobs.pooling_outputs import (
        EmbeddingOutput,
        EmbeddingRequestOutput,
        ScoringOutput,
        ScoringRequestOutput,
    )
    from glinthawk.llm import LLM, CompletionOutput, Logprob, Messages, Prompt, RequestOutput
    from glinthawk.telemetry.stats import RunStats

__all__ = [
    "LLM",
    "CompletionOutput",
    "EmbeddingOutput",
    "EmbeddingRequestOutput",
    "GlinthawkError",
    "Logprob",
    "Messages",
    "ModelError",
    "PoolingParams",
    "Prompt",
    "RequestError",
    "RequestOutput",
    "RunStats",
    "SamplingParams",
    "ScoringOutput",
    "ScoringRequestOutput",
    "StructuredOutputsParams",
    "TokenLogprobs",
    "UnsupportedModel",
    "UsageError",
    "WorkerError",
    "WorkerLost",
    "WorkerRefused",
    "__version__",
]

__version__ = "0.1.0"

_POOLED = {"EmbeddingOutput", "EmbeddingRequestOutput", "ScoringOutput", "ScoringRequestOutput"}


def __getattr__(name: str) -> Any:
    """What needs torch is imported at first use, for that takes seconds."""
    if name not in __all__:
        raise AttributeError(f"module 'glinthawk' has no attribute {name!r}")
    module = "jobs.pooling_outputs" if name in _POOLED else "llm"
    return getattr(import_module(f"glinthawk.{module}"), name)
