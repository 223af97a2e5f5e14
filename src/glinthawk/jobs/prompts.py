"""The ``prompt`` of a completion: one or many, as text or as token ids."""

from collections.abc import Iterator
from typing import Any

import msgspec

from glinthawk.core.errors import RequestError
from glinthawk.core.limits import Limits
from glinthawk.core.sampling import SamplingParams
from glinthawk.jobs.body import as_whole
from glinthawk.jobs.text import Text

__all__ = ["Prompt", "fit_prompt", "read_prompts"]

_FORMS = "a string, a list of token ids, or a list of those"


class Prompt(msgspec.Struct, frozen=True):
    """One prompt of a line. ``max_tokens`` fits the run's limits; ``said`` is the text that was
    given, None where token ids were."""

    ids: tuple[int, ...]
    max_tokens: int
    said: str | None = None


def read_prompts(
    given: object, text: Text, limits: Limits, params: SamplingParams
) -> tuple[Prompt, ...]:
    """Raises RequestError, which names the prompt at fault where there are several."""
    if given is None:
        raise RequestError(f"prompt is missing; give {_FORMS}", param="prompt")
    if isinstance(given, str):
        return (_read(given, text, limits, params),)
    if (ids := _as_ids(given)) is not None:
        return (_read(ids, text, limits, params),)
    return tuple(_read_all(given, text, limits, params))


def fit_prompt(
    ids: tuple[int, ...], limits: Limits, params: SamplingParams, said: str | None = None
) -> Prompt:
    """What of ``ids`` the request keeps. Raises RequestError where it fits no limits."""
    kept = limits.truncate(ids, params)
    is_whole = len(kept) == len(ids)
    return Prompt(kept, limits.max_tokens(kept, params.max_tokens), said if is_whole else None)


def _read_all(given: Any, text: Text, limits: Limits, params: SamplingParams) -> Iterator[Prompt]:
    for place, one in enumerate(given if isinstance(given, list) and given else [given]):
        said = one if isinstance(one, str) else _as_ids(one)
        if said is None:
            raise RequestError(f"prompt must be {_FORMS}; correct it", param="prompt")
        try:
            yield _read(said, text, limits, params)
        except RequestError as error:
            where = f"prompt[{place}]"
            param = where if error.param == "prompt" else error.param
            raise RequestError(f"{where}: {error}", param=param, code=error.code) from error


def _read(said: str | list[int], text: Text, limits: Limits, params: SamplingParams) -> Prompt:
    if isinstance(said, str):
        ids = text.encode(said, limits.longest_prompt(params))
        return fit_prompt(ids, limits, params, said)
    return fit_prompt(tuple(said), limits, params)


def _as_ids(given: object) -> list[int] | None:
    ids = _converted(given)
    # Looking for whole numbers walks the list in Python: most lists need none of it.
    return _converted(as_whole(given)) if ids is None else ids


def _converted(given: object) -> list[int] | None:
    try:
        return msgspec.convert(given, list[int])
    except msgspec.ValidationError:
        return None
