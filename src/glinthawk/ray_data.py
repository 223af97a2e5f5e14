"""A stage for Ray Data: ``dataset.map_batches(AnswerBatches, ...)``, a model in each actor."""

import weakref
from collections.abc import Mapping
from typing import Any, Literal

from glinthawk.core.sampling import SamplingParams

__all__ = ["AnswerBatches"]


class AnswerBatches:
    """Takes what ``LLM`` and ``LLM.map`` take, which say what they mean. Batches are answered one
    after another, so larger ones keep the engine busier.

    >>> # dataset.map_batches(
    >>> #     AnswerBatches,
    >>> #     fn_constructor_kwargs={"model": "demo", "prompt_column": "text"},
    >>> #     batch_size=1024,
    >>> #     compute=ray.data.ActorPoolStrategy(size=1),
    >>> # )
    """

    def __init__(
        self,
        model: str,
        sampling_params: SamplingParams | None = None,
        *,
        prompt_column: str | None = None,
        messages_column: str | None = None,
        template: str | None = None,
        endpoint: Literal["chat", "completions"] = "chat",
        body: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        from glinthawk.llm.llm import LLM

        self._asked: dict[str, Any] = {
            "sampling_params": sampling_params,
            "prompt_column": prompt_column,
            "messages_column": messages_column,
            "template": template,
            "endpoint": endpoint,
            "body": body,
            "use_tqdm": False,
        }
        self._llm = LLM(model, **settings)
        # Ray says nothing to a stage that it needs no more: it drops it, or ends its process.
        weakref.finalize(self, self._llm.close)

    def __call__(self, batch: Any) -> Any:
        """A batch of any of Ray's formats, with the answers' columns."""
        return self._llm.map(batch, **self._asked)
