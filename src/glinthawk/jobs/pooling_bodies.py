"""Bodies that ask for embeddings, scores or a ranking, as OpenAI, vLLM and Cohere write them."""

from typing import Annotated, Any, Literal

import msgspec

__all__ = ["EmbeddingBody", "Encoding", "PoolingBody", "RankingBody", "ScoreBody", "ScoringBody"]

_Count = Annotated[int, msgspec.Meta(ge=-1, le=2**63 - 1)]
Encoding = Literal["float", "base64"]


class PoolingBody(msgspec.Struct, kw_only=True):
    """Fields of all. None is absent."""

    model: str | None = None
    user: str | None = None
    truncate_prompt_tokens: _Count | None = None
    truncation_side: Literal["left", "right"] | None = None
    use_activation: bool | None = None


class EmbeddingBody(PoolingBody, kw_only=True):
    """Body of a line for /v1/embeddings."""

    input: Any = None
    #: In place of ``input``, one conversation, which the chat template spells.
    messages: Any = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    encoding_format: Encoding | None = None
    dimensions: _Count | None = None
    add_special_tokens: bool | None = None
    #: vLLM's older name of ``use_activation``.
    normalize: bool | None = None
    #: There are no others.
    embed_dtype: Literal["float32"] | None = None
    endianness: Literal["native", "little"] | None = None


class ScoringBody(PoolingBody, kw_only=True):
    """What scores and rankings have in common."""

    instruction: str | None = None


class ScoreBody(ScoringBody, kw_only=True):
    """Body of a line for /v1/score: two sides, under any of vLLM's names."""

    text_1: Any = None
    text_2: Any = None
    data_1: Any = None
    data_2: Any = None
    queries: Any = None
    documents: Any = None
    items: Any = None


class RankingBody(ScoringBody, kw_only=True):
    """Body of a line for /v1/rerank."""

    query: Any = None
    documents: Any = None
    top_n: _Count | None = None
    return_documents: bool | None = None
