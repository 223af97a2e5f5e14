"""What a request for vectors or scores wants made of what the model gives for its prompts."""

from dataclasses import dataclass

from glinthawk.core.pooling import Pooling
from glinthawk.jobs.pooling_bodies import Encoding

__all__ = ["PoolingWish"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolingWish:
    """``pooling`` is asked of the engine for every prompt."""

    pooling: Pooling
    #: Whether vectors are brought to the length 1, or scores between 0 and 1.
    activates: bool
    #: Numbers of a vector that are kept; None: all.
    dimensions: int | None = None
    encoding: Encoding = "float"
    #: Of scores by vectors: the first so many prompts are queries, the others their documents. 0:
    #: every prompt is a pair, whose score the model says.
    num_queries: int = 0
    #: Of a ranking: the best so many documents are told, each with its text if that is wanted.
    top_n: int | None = None
    documents: tuple[str, ...] | None = None
