"""The ``prompt`` of a completion: one or many, as text or as token ids."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from glinthawk.core.errors import RequestError
from glinthawk.core.limits import Limits
from glinthawk.jobs.text import Text

__all__ = ["Prompt", "read_prompts"]

_FORMS = "a string, a list of token ids, or a list of those"


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of a line. ``max_tokens`` fits the run's limits; ``said`` is the text that was
    given, None where token ids were."""

    ids: tuple[int, ...]
    max_tokens: int
    said: str | None = None


def read_prompts(
    given: object, text: Text, limits: Limits, max_tokens: int | None
) -> tuple[Prompt, ...]:
    """Raises RequestError, which names the prompt at fault where there are several."""
    if given is None:
        raise RequestError(f"prompt is missing; give {_FORMS}", param="prompt")
    if isinstance(given, str):
        return (_read(given, text, limits, max_tokens),)
    if (ids := _as_ids(given)) is not None:
        return (_read(ids, text, limits, max_tokens),)
    return tuple(_read_all(given, text, limits, max_tokens))


def _read_all(given: Any, text: Text, limits: Limits, max_tokens: int | None) -> Iterator[Prompt]:
    for place, one in enumerate(given if isinstance(given, list) else [given]):
        said = one if isinstance(one, str) else _as_ids(one)
        if said is None:
            raise RequestError(f"prompt must be {_FORMS}; correct it", param="prompt")
        try:
            yield _read(said, text, limits, max_tokens)
        except RequestError as error:
            where = f"prompt[{place}]"
            param = where if error.param == "prompt" else error.param
            raise RequestError(f"{where}: {error}", param=param, code=error.code) from error


def _read(said: str | list[int], text: Text, limits: Limits, max_tokens: int | None) -> Prompt:
    if isinstance(said, str):
        ids = text.encode(said, limits.max_model_len)
        return Prompt(ids, limits.max_tokens(ids, max_tokens), said)
    ids = tuple(said)
    return Prompt(ids, limits.max_tokens(ids, max_tokens))


def _as_ids(given: object) -> list[int] | None:
    try:
        return msgspec.convert(given, list[int])
    except msgspec.ValidationError:
        return None
