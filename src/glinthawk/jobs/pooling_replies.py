"""From what was pooled to vectors, scores and the bodies that tell them, in vLLM's forms."""

import math
from base64 import b64encode
from collections.abc import Sequence as Many
from typing import Any

import numpy as np
import numpy.typing as npt

from glinthawk.core.sequence import Sequence
from glinthawk.jobs.pooling_wish import PoolingWish

__all__ = ["embedding_body", "embedding_of", "ranking_body", "score_body", "scores_of"]

_Vector = npt.NDArray[np.float64]


def embedding_of(wish: PoolingWish, sequence: Sequence) -> npt.NDArray[np.float32]:
    """(N,): the mean of the rows that were pooled, as long as is wanted, and of length 1 if so."""
    vector = _mean(sequence)[: wish.dimensions]
    return (_unit(vector) if wish.activates else vector).astype(np.float32)


def scores_of(wish: PoolingWish, sequences: Many[Sequence]) -> list[float]:
    """Of each pair, in order."""
    if not wish.num_queries:
        return [_judgement(wish, sequence) for sequence in sequences]
    units = [_unit(_mean(sequence)) for sequence in sequences]
    queries, documents = units[: wish.num_queries], units[wish.num_queries :]
    if len(queries) == 1:
        queries = queries * len(documents)
    return [float(one @ other) for one, other in zip(queries, documents, strict=True)]


def embedding_body(
    head: dict[str, Any], wish: PoolingWish, sequences: Many[Sequence]
) -> dict[str, Any]:
    """``head`` has the fields that all replies have: id, created, model, usage."""
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": _encoded(wish, embedding_of(wish, sequence)),
        }
        for index, sequence in enumerate(sequences)
    ]
    return {"object": "list", **head, "data": data}


def score_body(
    head: dict[str, Any], wish: PoolingWish, sequences: Many[Sequence]
) -> dict[str, Any]:
    """Likewise."""
    data = [
        {"object": "score", "index": index, "score": score}
        for index, score in enumerate(scores_of(wish, sequences))
    ]
    return {"object": "list", **head, "data": data}


def ranking_body(
    head: dict[str, Any], wish: PoolingWish, sequences: Many[Sequence]
) -> dict[str, Any]:
    """Likewise: the best documents first, of equals the one that came first."""
    scores = scores_of(wish, sequences)
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    results = [
        {"index": index, **_document(wish, index), "relevance_score": scores[index]}
        for index in order[: wish.top_n]
    ]
    return {**head, "results": results}


def _document(wish: PoolingWish, index: int) -> dict[str, Any]:
    return {} if wish.documents is None else {"document": {"text": wish.documents[index]}}


def _encoded(wish: PoolingWish, vector: npt.NDArray[np.float32]) -> list[float] | str:
    if wish.encoding == "base64":
        return b64encode(vector.astype("<f4").tobytes()).decode()
    # Nine digits are all that float32 has.
    return [float(f"{number:.9g}") for number in vector.tolist()]


def _judgement(wish: PoolingWish, sequence: Sequence) -> float:
    """Of one logit, or of that of no and that of yes."""
    assert sequence.pooled is not None
    logit = sequence.pooled[-1] - (sequence.pooled[0] if len(sequence.pooled) > 1 else 0.0)
    return 1 / (1 + math.exp(-max(logit, -700.0))) if wish.activates else logit


def _mean(sequence: Sequence) -> _Vector:
    assert sequence.pooled is not None
    return np.array(sequence.pooled) / len(sequence.request.pooled_rows)


def _unit(vector: _Vector) -> _Vector:
    length = float(np.linalg.norm(vector))
    return vector / length if length else vector
