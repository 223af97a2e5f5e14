"""Embeddings and scores for Python: prompts in, vectors out, whoever runs them."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from glinthawk.core.errors import RequestError
from glinthawk.core.pooling_params import PoolingParams
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.core.sequence import Sequence as TokenSequence
from glinthawk.jobs.pooling_bodies import EmbeddingBody, ScoreBody
from glinthawk.jobs.pooling_outputs import (
    EmbeddingOutput,
    EmbeddingRequestOutput,
    ScoringOutput,
    ScoringRequestOutput,
)
from glinthawk.jobs.pooling_prompts import PoolingReader
from glinthawk.jobs.pooling_replies import embedding_of, scores_of
from glinthawk.jobs.pooling_wish import PoolingWish
from glinthawk.jobs.prompts import Prompt

__all__ = ["Runner", "embed_prompts", "score_texts"]

#: Finished sequences of requests, in the order of these.
Runner = Callable[[list[Request]], list[TokenSequence]]

_NO_ANSWER = SamplingParams(max_tokens=0, temperature=0)


def embed_prompts(
    reader: PoolingReader,
    run: Runner,
    prompts: Sequence[Any],
    params: PoolingParams | Sequence[PoolingParams] | None,
) -> list[EmbeddingRequestOutput]:
    """An embedding of each prompt; raises RequestError before the first is run."""
    asked = []
    for prompt, one in zip(prompts, _spread(params, len(prompts)), strict=True):
        body = EmbeddingBody(
            input=_input_of(prompt),
            dimensions=one.dimensions,
            use_activation=one.use_activation,
            truncate_prompt_tokens=one.truncate_prompt_tokens,
        )
        (read,), wish = reader.read_embeddings(body)
        asked.append((read, wish))
    sequences = run(_requests(asked))
    return [
        EmbeddingRequestOutput(
            str(number),
            EmbeddingOutput(embedding_of(wish, sequence).tolist()),
            list(sequence.request.prompt),
        )
        for number, ((_, wish), sequence) in enumerate(zip(asked, sequences, strict=True))
    ]


def score_texts(
    reader: PoolingReader,
    run: Runner,
    sides: tuple[Any, Any],
    params: PoolingParams | None,
    instruction: str | None = None,
) -> list[ScoringRequestOutput]:
    """A score of each pair: one text and many, or as many; raises as ``embed_prompts``."""
    one = params or PoolingParams()
    body = ScoreBody(
        text_1=sides[0],
        text_2=sides[1],
        use_activation=one.use_activation,
        truncate_prompt_tokens=one.truncate_prompt_tokens,
        instruction=instruction,
    )
    prompts, wish = reader.read_scores(body)
    sequences = run(_requests([(prompt, wish) for prompt in prompts]))
    scores = scores_of(wish, sequences)
    texts = [list(prompt.ids) for prompt in prompts]
    if wish.num_queries:
        first, second = texts[: wish.num_queries], texts[wish.num_queries :]
        first = first * len(second) if len(first) == 1 else first
        texts = [one + other for one, other in zip(first, second, strict=True)]
    return [
        ScoringRequestOutput(str(number), ScoringOutput(score), ids)
        for number, (score, ids) in enumerate(zip(scores, texts, strict=True))
    ]


def _requests(asked: Iterable[tuple[Prompt, PoolingWish]]) -> list[Request]:
    return [
        Request(number, prompt.ids, _NO_ANSWER, 0, 0, pooling=wish.pooling)
        for number, (prompt, wish) in enumerate(asked)
    ]


def _spread(
    params: PoolingParams | Sequence[PoolingParams] | None, count: int
) -> list[PoolingParams]:
    if params is None or isinstance(params, PoolingParams):
        return [params or PoolingParams()] * count
    if len(params) != count:
        raise ValueError(f"there are {count} prompts but {len(params)} pooling_params")
    return list(params)


def _input_of(prompt: Any) -> Any:
    """Of one prompt, a text or token ids. Raises RequestError for what is none."""
    given = prompt
    if isinstance(prompt, dict):
        given = prompt.get("prompt_token_ids", prompt.get("prompt"))
    given = list(given) if isinstance(given, tuple) else given
    is_ids = isinstance(given, list) and all(type(one) is int for one in given)
    if not isinstance(given, str) and not is_ids:
        raise RequestError(
            "a prompt is text, a list of token ids, or a dictionary with one of them as "
            f"'prompt' or 'prompt_token_ids', not {prompt!r:.80}",
            param="prompt",
        )
    return given
