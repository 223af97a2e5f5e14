"""What somebody asks from Python: prompts and conversations become token ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from glinthawk.core.errors import RequestError
from glinthawk.core.sampling import SamplingParams
from glinthawk.jobs.conversation import Conversation
from glinthawk.llm.open_model import OpenModel

__all__ = ["Asked", "Messages", "Prompt", "list_prompts", "read_chat", "read_prompt"]

#: A prompt: text, token ids, ``{"prompt": text}`` or ``{"prompt_token_ids": [...]}``.
Prompt = str | Sequence[int] | dict[str, Any]
Messages = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt with its rules."""

    text: str | None
    token_ids: tuple[int, ...]
    params: SamplingParams
    #: Number of its LoRA adapter; 0: none.
    adapter: int = 0


def list_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Any]:
    """One prompt is a list of one."""
    many: list[Any] = [prompts] if isinstance(prompts, str | dict) else list(prompts)
    return [many] if many and all(_is_token(item) for item in many) else many


def read_prompt(model: OpenModel, prompt: Prompt, params: SamplingParams) -> Asked:
    """Raises RequestError for what is no prompt, and for a model that answers none."""
    model.pooler.require_head()
    given = prompt if isinstance(prompt, dict) else {}
    ids = given.get("prompt_token_ids", prompt)
    text = given.get("prompt") if given else prompt
    if isinstance(ids, list | tuple) and all(_is_token(item) for item in ids):
        return Asked(text if isinstance(text, str) else None, tuple(ids), params)
    if not isinstance(text, str):
        raise RequestError(
            "a prompt is text, a list of token ids, or a dictionary with one of them as "
            f"'prompt' or 'prompt_token_ids', not {prompt!r:.80}",
            param="prompt",
        )
    most = model.run.limits.longest_prompt(params)
    return Asked(text, model.text.encode(text, most), params)


def read_chat(model: OpenModel, said: Conversation, params: SamplingParams) -> Asked:
    """Raises RequestError for what is no conversation, and for a model that answers none."""
    model.pooler.require_head()
    most = model.run.limits.longest_prompt(params)
    return Asked(None, model.text.encode_chat(said, most), params)


def _is_token(item: object) -> bool:
    return isinstance(item, int) and not isinstance(item, bool)
