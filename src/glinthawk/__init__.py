"""Offline LLM inference on two tiers.

>>> from glinthawk import LLM, SamplingParams
>>> with LLM("demo", tier2="local:2") as llm:
...     outputs = llm.generate(["The list type is"], SamplingParams(temperature=0, max_tokens=32))
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glinthawk.core.sampling import SamplingParams
    from glinthawk.llm import LLM, CompletionOutput, RequestOutput

__all__ = ["LLM", "CompletionOutput", "RequestOutput", "SamplingParams", "__version__"]

__version__ = "0.1.0"

_HOMES = {
    "LLM": "glinthawk.llm",
    "CompletionOutput": "glinthawk.llm",
    "RequestOutput": "glinthawk.llm",
    "SamplingParams": "glinthawk.core.sampling",
}


def __getattr__(name: str) -> Any:
    """Public names are imported at first use: torch takes seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module 'glinthawk' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
