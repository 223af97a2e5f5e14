"""From bodies to prompts: what is tokenised for an embedding, a score or a ranking."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from glinthawk.core.errors import RequestError
from glinthawk.core.limits import Limits
from glinthawk.core.pooling import Pooling
from glinthawk.jobs.body import as_whole
from glinthawk.jobs.conversation import Conversation
from glinthawk.jobs.pooling_bodies import (
    EmbeddingBody,
    PoolingBody,
    RankingBody,
    ScoreBody,
    ScoringBody,
)
from glinthawk.jobs.pooling_wish import PoolingWish
from glinthawk.jobs.prompts import Prompt
from glinthawk.jobs.text import Text
from glinthawk.jobs.text_pairs import PairEncoder, PromptCut, encode_cut, no_instruction
from glinthawk.tokens.pooler import Pooler

__all__ = ["Asked", "PoolingReader"]

#: Names of the two sides of pairs.
_SIDES = (
    ("text_1", "text_2"),
    ("data_1", "data_2"),
    ("queries", "documents"),
    ("queries", "items"),
)
_INPUTS = "a string, a list of strings, token ids, or a list of those"

Asked = tuple[tuple[Prompt, ...], PoolingWish]


@dataclass(frozen=True, slots=True)
class PoolingReader:
    """What bodies are read against. All raise RequestError, which names a field."""

    text: Text
    limits: Limits
    pooler: Pooler

    def read_embeddings(self, body: EmbeddingBody) -> Asked:
        """A prompt for each input, or one of a conversation."""
        pooler = self._check_vectors()
        told = body.use_activation if body.normalize is None else body.normalize
        wish = PoolingWish(
            pooling=Pooling(pooler.rows),
            activates=pooler.normalizes if told is None else told,
            dimensions=self._dimensions(body.dimensions),
            encoding=body.encoding_format or "float",
        )
        cut = self._cut(body)
        if body.messages is not None:
            return (self._spell(body, cut),), wish
        special = body.add_special_tokens is not False
        inputs = _list_inputs(body.input)
        return tuple(self._prompt(one, cut, special, name) for name, one in inputs), wish

    def _spell(self, body: EmbeddingBody, cut: PromptCut) -> Prompt:
        """As vLLM: nobody is to answer, so the template begins no answer unless it is asked to."""
        if body.input is not None:
            raise RequestError(
                "input and messages are two prompts; remove one of them", param="messages"
            )
        said = Conversation(
            messages=body.messages,
            add_generation_prompt=bool(body.add_generation_prompt),
            continue_final_message=bool(body.continue_final_message),
            extras=body.chat_template_kwargs or {},
        )
        ids = self.text.encode_chat(said, cut.longest if cut.most is None else None)
        return self._checked(cut.apply(ids, self.text), "messages")

    def read_scores(self, body: ScoreBody) -> Asked:
        """A prompt for each pair; or for each text, where vectors are compared."""
        names = _name_sides(body)
        first, second = (_list_texts(getattr(body, name), name) for name in names)
        if len(first) not in (1, len(second)):
            raise RequestError(
                f"there are {len(first)} texts on one side and {len(second)} on the other; give "
                "one and many, or as many",
                param=names[0],
            )
        return self._score(body, first, second)

    def read_ranking(self, body: RankingBody) -> Asked:
        """Likewise; the reply tells the ``top_n`` best."""
        if isinstance(body.query, list):
            raise RequestError("query must be one text; correct it", param="query")
        query, documents = (
            _list_texts(body.query, "query"),
            _list_texts(body.documents, "documents"),
        )
        prompts, wish = self._score(body, query, documents)
        shown = tuple(documents) if body.return_documents is not False else None
        top_n = len(documents) if (body.top_n or 0) <= 0 else body.top_n
        return prompts, replace(wish, top_n=top_n, documents=shown)

    def _score(self, body: ScoringBody, first: list[str], second: list[str]) -> Asked:
        if self.pooler.kind != "classifier" and not self.pooler.tokens:
            return self._compare(body, first, second)
        return self._judge(body, first * len(second) if len(first) == 1 else first, second)

    def _compare(self, body: ScoringBody, first: list[str], second: list[str]) -> Asked:
        """The cosine of two vectors is their score."""
        pooler, cut = self._check_vectors(), self._cut(body)
        if body.instruction is not None:
            raise no_instruction()
        prompts = tuple(self._prompt(one, cut, True, "prompt") for one in first + second)
        pooling = Pooling(pooler.rows)
        return prompts, PoolingWish(pooling=pooling, activates=True, num_queries=len(first))

    def _judge(self, body: ScoringBody, first: list[str], second: list[str]) -> Asked:
        """The model says the score of a pair."""
        pooler, cut, told = self.pooler, self._cut(body), body.use_activation
        if pooler.num_labels != 1:
            raise RequestError(
                f"this model tells {pooler.num_labels} labels apart, and a score needs a model of "
                "one; use a reranker",
                param="url",
                code="model_not_supported",
            )
        encoder = PairEncoder(self.text, pooler, body.instruction)
        wish = PoolingWish(
            pooling=Pooling("last", encoder.judging_ids()),
            activates=pooler.activates if told is None else told,
        )
        pairs = zip(first, second, strict=True)
        return tuple(self._checked(encoder.encode(*pair, cut), "prompt") for pair in pairs), wish

    def _check_vectors(self) -> Pooler:
        pooler = self.pooler
        if pooler.kind == "classifier" or pooler.refusal:
            why = pooler.refusal or "it classifies, and its scores are asked for at /v1/score"
            raise RequestError(
                f"this model gives no embeddings: {why}; use an embedding model that is a decoder",
                param="url",
                code="model_not_supported",
            )
        return pooler

    def _dimensions(self, wanted: int | None) -> int | None:
        size = self.pooler.hidden_size
        if wanted is not None and not 1 <= wanted <= size:
            raise RequestError(
                f"dimensions must be from 1 to {size}, not {wanted}; correct it",
                param="dimensions",
            )
        return wanted

    def _cut(self, body: PoolingBody) -> PromptCut:
        most = body.truncate_prompt_tokens
        if most == 0:
            raise RequestError(
                "truncate_prompt_tokens must be -1, or 1 or more, not 0; correct it",
                param="truncate_prompt_tokens",
            )
        longest = self.limits.max_model_len
        return PromptCut(longest if most == -1 else most, body.truncation_side, longest)

    def _prompt(self, given: str | list[int], cut: PromptCut, special: bool, name: str) -> Prompt:
        if isinstance(given, str):
            ids = encode_cut(self.text, given, cut, name, add_special_tokens=special)
        else:
            ids = cut.apply(tuple(given), self.text)
        return self._checked(ids, name)

    def _checked(self, ids: tuple[int, ...], name: str) -> Prompt:
        try:
            self.limits.check_prompt(ids, fewest=0)
        except RequestError as error:
            raise RequestError(str(error), param=name, code=error.code) from error
        return Prompt(ids, 0)


def _list_inputs(given: Any) -> Iterator[tuple[str, str | list[int]]]:
    """Each with what it is called in errors."""
    alone = _as_input(given)
    if alone is not None:
        yield "input", alone
        return
    if not isinstance(given, list) or not given:
        raise RequestError(f"input must be {_INPUTS}; correct it", param="input")
    for place, one in enumerate(given):
        name, said = f"input[{place}]", _as_input(one)
        if said is None:
            raise RequestError(f"{name}: input must be {_INPUTS}; correct it", param=name)
        yield name, said


def _as_input(given: object) -> str | list[int] | None:
    """A text, or token ids; None for anything else."""
    if isinstance(given, str):
        return given
    try:
        return msgspec.convert(as_whole(given), list[int]) or None
    except msgspec.ValidationError:
        return None


def _name_sides(body: ScoreBody) -> tuple[str, str]:
    names = {name for sides in _SIDES for name in sides}
    given = {name for name in names if getattr(body, name) is not None}
    for sides in _SIDES:
        if given == {*sides}:
            return sides
    raise RequestError(
        "a score needs two sides, text_1 and text_2; give both, and nothing else under vLLM's "
        "other names for them",
        param="text_1",
    )


def _list_texts(given: Any, name: str) -> list[str]:
    """Of a text or a list of texts, each a string or an object with one."""
    many = given if isinstance(given, list) else [given]
    texts = [one.get("text") if isinstance(one, dict) else one for one in many]
    strings = [one for one in texts if isinstance(one, str)]
    if not texts or len(strings) < len(texts):
        raise RequestError(
            f'{name} must be a string, an object like {{"text": "..."}}, or a list of those; '
            "correct it",
            param=name,
        )
    return strings
