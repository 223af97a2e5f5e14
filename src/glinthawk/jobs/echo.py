"""Answers that begin with their prompts, as OpenAI's ``echo`` asks for."""

from collections.abc import Sequence as Many
from typing import Any

from glinthawk.core.prompt_scores import TokenScore
from glinthawk.core.sequence import TokenLogprobs
from glinthawk.jobs.logprobs import FLOOR, name_alternatives, say_tokens
from glinthawk.jobs.prompts import Prompt
from glinthawk.jobs.text import Text

__all__ = ["echo_logprobs", "echo_text"]


def echo_text(prompt: Prompt, text: Text) -> str:
    """What an answer begins with: the text that was given, or that of the token ids."""
    return text.decode(prompt.ids) if prompt.said is None else prompt.said


def echo_logprobs(
    prompt: Prompt, scores: Many[TokenScore], num_top: int, answer: dict[str, Any], text: Text
) -> dict[str, Any]:
    """``answer``, which is in the shape of ``completion_logprobs``, behind the same of the prompt's
    tokens. ``scores`` are those of all but the first, of which nothing is known."""
    whole = echo_text(prompt, text)
    said = say_tokens((), prompt.ids, text)
    triples = zip(prompt.ids[1:], said[1:], scores, strict=True)
    alternatives = [
        name_alternatives(
            TokenLogprobs(token, score.logprob, score.rank, score.top[:num_top]), one, text
        )
        for token, one, score in triples
    ]
    before: dict[str, list[Any]] = {
        "text_offset": _offsets(prompt.ids, said, whole, text),
        "token_logprobs": [None, *(max(score.logprob, FLOOR) for score in scores)],
        "tokens": said,
        "top_logprobs": [None, *alternatives],
    }
    shifted = [len(whole) + offset for offset in answer["text_offset"]]
    behind = {**answer, "text_offset": shifted}
    return {name: [*values, *behind[name]] for name, values in before.items()}


def _offsets(ids: Many[int], said: Many[str], whole: str, text: Text) -> list[int]:
    """Where each token begins. One that is not shown in texts is, where it stands in this one."""
    offsets, offset = [], 0
    for token, one in zip(ids, said, strict=True):
        offsets.append(offset)
        if not text.is_special(token) or whole.startswith(one, offset):
            offset += len(one)
    return offsets
