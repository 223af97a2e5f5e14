"""Guesses for runs whose answers are known: right ones, and ones that are wrong at any place."""

from collections.abc import Iterable

import pytest

from glinthawk.scheduler.prompt_lookup import PromptLookup

__all__ = ["force_drafts"]


def force_drafts(patch: pytest.MonkeyPatch, texts: Iterable[tuple[int, ...]]) -> None:
    """Of a text that begins like one of ``texts``, prompts and their answers, the rest of that is
    guessed, in most cases with one token that is wrong."""
    known = list(texts)

    def guess(lookup: PromptLookup, most: int) -> tuple[int, ...]:
        text = tuple(vars(lookup)["_tokens"])
        rest = next((whole[len(text) :] for whole in known if whole[: len(text)] == text), ())
        tokens = list(rest[:most])
        place = 7 * len(text) % (most + 2)
        if place < len(tokens):
            tokens[place] = tokens[place] % 200 + 1
        return tuple(tokens)

    patch.setattr(PromptLookup, "guess", guess)
