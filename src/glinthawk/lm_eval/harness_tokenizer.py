"""Text to token ids as lm-evaluation-harness's own model ``hf`` does it."""

import logging
from typing import Any

from jinja2 import TemplateError

__all__ = ["HarnessTokenizer"]

_log = logging.getLogger(__name__)


class HarnessTokenizer:
    """``prefix_token_id`` stands before texts that have nothing before them; None is the
    tokenizer's own. ``add_bos_token`` None leaves it to the tokenizer, too."""

    def __init__(
        self,
        tokenizer: Any,
        *,
        prefix_token_id: int | None = None,
        add_bos_token: bool | None = None,
        template_arguments: dict[str, Any] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self._add_bos_token = add_bos_token
        self._template_arguments = template_arguments or {}
        own = (tokenizer.bos_token_id, tokenizer.eos_token_id)
        known = [one for one in (prefix_token_id, *own) if one is not None]
        self.prefix_token_id: int | None = known[0] if known else None

    def encode(self, text: str, add_special_tokens: bool | None = None) -> list[int]:
        """A text that begins with the prefix, as chat templates write it, gets no second one."""
        told = self._add_bos_token if add_special_tokens is None else add_special_tokens
        if add_special_tokens is None and self._begins_with_prefix(text):
            told = False
        how = {} if told is None else {"add_special_tokens": told}
        return list(self.tokenizer.encode(text, **how))

    def _begins_with_prefix(self, text: str) -> bool:
        prefix = self.prefix_token_id
        return prefix is not None and text.startswith(self.tokenizer.decode(prefix))

    def decode(self, ids: list[int]) -> str:
        """Without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    @property
    def end_of_text(self) -> str | None:
        """How the end-of-sequence token is spelled."""
        end = self.tokenizer.eos_token_id
        return None if end is None else str(self.tokenizer.decode(end))

    def render(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        """The conversation as text; without its system message where the template refuses that."""
        try:
            return self._render(messages, add_generation_prompt)
        except TemplateError as error:
            _log.warning("the chat template refuses a system message (%s): it is left out", error)
            spoken = [message for message in messages if message["role"] != "system"]
            return self._render(spoken, add_generation_prompt)

    def _render(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
                **self._template_arguments,
            )
        )
