"""Texts and pairs of texts become token ids, cut to a length where that is asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from glinthawk.core.errors import RequestError
from glinthawk.jobs.text import Text
from glinthawk.tokens.pooler import Pooler

__all__ = ["PairEncoder", "PromptCut", "encode_cut", "no_instruction"]

#: How Qwen3-Reranker is asked; a public fact of its model card.
_BEFORE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
_BEHIND = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


@dataclass(frozen=True, slots=True)
class PromptCut:
    """Of prompts that may have ``longest`` tokens: ``most`` are kept (None: all), of the "right"
    those before the cut, of the "left" those behind it. None: as the tokenizer says."""

    most: int | None
    side: Literal["left", "right"] | None
    longest: int

    def apply(self, ids: tuple[int, ...], text: Text) -> tuple[int, ...]:
        """What is kept of ``ids``."""
        if self.most is None:
            return ids
        side = self.side or getattr(text.tokenizer, "truncation_side", "right")
        return ids[: self.most] if side == "right" else ids[-self.most :]


def encode_cut(
    text: Text, said: str, cut: PromptCut, param: str, **options: Any
) -> tuple[int, ...]:
    """Special tokens around ``said`` stay. Raises RequestError, which names ``param``."""
    if cut.most is None or text.tokenizer is None:
        return text.encode(said, cut.longest, param, **options)
    with _cutting(text.tokenizer, cut.side):
        return text.encode(said, None, param, truncation=True, max_length=cut.most, **options)


@contextmanager
def _cutting(tokenizer: Any, side: str | None) -> Iterator[None]:
    own = tokenizer.truncation_side
    tokenizer.truncation_side = side or own
    try:
        yield
    finally:
        tokenizer.truncation_side = own


def no_instruction() -> RequestError:
    """Of models that are not told one."""
    return RequestError(
        "instruction is for Qwen3-Reranker, and this model takes none; remove it",
        param="instruction",
        code="unsupported_field",
    )


class PairEncoder:
    """Puts a query and a document as the model of ``pooler`` was trained on them."""

    def __init__(self, text: Text, pooler: Pooler, instruction: str | None) -> None:
        self._text, self._pooler = text, pooler
        self._instruction = _INSTRUCTION if instruction is None else instruction
        if instruction is not None and not pooler.asks_as_qwen3:
            raise no_instruction()

    def judging_ids(self) -> tuple[int, ...]:
        """Of the tokens whose logits are the score; empty where a head says it."""
        tokenizer, ids = self._text.tokenizer, []
        for token in self._pooler.tokens:
            number = None if tokenizer is None else tokenizer.convert_tokens_to_ids(token)
            if number is None or number == getattr(tokenizer, "unk_token_id", None):
                raise RequestError(
                    f"this model's tokenizer has no token {token!r}, by which pairs would be "
                    "scored; use --reranker none to compare embeddings",
                    param="url",
                    code="model_not_supported",
                )
            ids.append(number)
        return tuple(ids)

    def encode(self, query: str, document: str, cut: PromptCut) -> tuple[int, ...]:
        """Token ids of the pair. Raises RequestError."""
        # Who has put the whole question in vLLM's way has written its beginning and its end.
        if self._pooler.asks_as_qwen3 and not query.startswith(_BEFORE):
            return self._ask(query, document, cut)
        return encode_cut(self._text, query, cut, "prompt", text_pair=document)

    def _ask(self, query: str, document: str, cut: PromptCut) -> tuple[int, ...]:
        before, behind = (self._plain(part) for part in (_BEFORE, _BEHIND))
        told = f"<Instruct>: {self._instruction}\n<Query>: {query}\n<Document>: {document}"
        around = len(before) + len(behind)
        most = None if cut.most is None else max(1, cut.most - around)
        inner = PromptCut(most, cut.side, cut.longest)
        asked = encode_cut(self._text, told, inner, "prompt", add_special_tokens=False)
        return before + asked + behind

    def _plain(self, part: str) -> tuple[int, ...]:
        return self._text.encode(part, add_special_tokens=False)
