"""Constraints on answers, compiled to automata over the tokens of a model."""

import json
import re
from functools import cache, cached_property, lru_cache
from typing import Any

from llguidance import LLMatcher, LLTokenizer, grammar_from

from glinthawk.core.structured_outputs import StructuredOutputsParams
from glinthawk.tokens.schema_check import check_schema
from glinthawk.tokens.structural_tags import write_tags
from glinthawk.tokens.thoughts import allow_thoughts

__all__ = ["Grammars"]

#: Compiled grammars that are kept; a job's lines mostly share a few.
_MOST_KEPT = 256
#: Between parts of JSON: a line break and an indentation. Where any number may come, small models
#: go on with them for ever.
_WHITESPACE = r"[ \t]{1,40}|\r?\n[ \t]{0,40}"
#: Whatever a schema asks for in its "x-guidance". What may stand behind a backslash in strings has
#: no "u", with which names could be spelt that a schema excludes.
_STRICT: Any = {
    "lenient": False,
    "coerce_one_of": False,
    "json_allowed_escapes": r'"\bfnrt',
}
#: Of an error, characters that are told.
_MOST_TOLD = 300
_UNKNOWN = re.compile(r"Unimplemented keys: \[(.*?)\]")


class Grammars:
    """Compiles for one tokenizer: a fast one of transformers, or None for a model without one."""

    def __init__(self, tokenizer: Any | None) -> None:
        self._tokenizer = tokenizer
        # Making one takes a second where a vocabulary has 128k tokens.
        self._vocabulary = cache(self._read_vocabulary)
        self._compiled = lru_cache(_MOST_KEPT)(self._compile)

    def matcher(
        self, wanted: StructuredOutputsParams, eos_token_ids: frozenset[int] = frozenset()
    ) -> LLMatcher:
        """At the beginning of an answer. Once that is complete, ``eos_token_ids`` are allowed, or
        the tokenizer's own where there are none. Raises ValueError for what cannot be compiled."""
        return self._compiled(wanted, eos_token_ids).deep_copy()

    @cached_property
    def num_tokens(self) -> int:
        """Bits of a mask; what a model has beyond them is never allowed."""
        return max(self._tokenizer.get_vocab().values()) + 1 if self._tokenizer is not None else 0

    @cached_property
    def _special(self) -> dict[str, int]:
        """Ids of tokens that no text of a grammar means."""
        added = {} if self._tokenizer is None else self._tokenizer.added_tokens_decoder
        return {token.content: id for id, token in added.items() if token.special}

    def _compile(self, wanted: StructuredOutputsParams, eos_token_ids: frozenset[int]) -> LLMatcher:
        vocabulary, grammar = self._vocabulary(eos_token_ids), _grammar(wanted)
        if wanted.thoughts is not None:
            grammar = allow_thoughts(grammar, wanted.thoughts, self._special)
        matcher = LLMatcher(vocabulary, grammar, log_level=0)
        if not matcher.is_error():
            matcher.compute_bitmask()  # what nothing fits is found out only now
        if matcher.is_error():
            raise ValueError(_shorten(matcher.get_error()))
        return matcher

    def _read_vocabulary(self, eos_token_ids: frozenset[int]) -> LLTokenizer:
        if self._tokenizer is None:
            raise ValueError("this model has no tokenizer files")
        from llguidance.hf import from_tokenizer

        try:
            known = sorted(token for token in eos_token_ids if token < self.num_tokens)
            return from_tokenizer(self._tokenizer, self.num_tokens, known or None)
        except Exception as error:
            # The library reads what came with the model: it may fail in any way it likes.
            raise ValueError(
                f"this model's tokenizer takes no grammars ({_shorten(str(error))})"
            ) from error


def _grammar(wanted: StructuredOutputsParams) -> str:
    """In the library's own form."""
    has_spaces = not wanted.disable_any_whitespace
    spaces: Any = {
        "whitespace_flexible": has_spaces,
        "whitespace_pattern": _WHITESPACE if has_spaces else None,
    }
    match wanted.kind:
        case "json" | "json_object":
            schema = wanted.json if wanted.json is not None else '{"type": "object"}'
            assert isinstance(schema, str)
            return LLMatcher.grammar_from_json_schema(
                check_schema(schema), defaults=spaces, overrides=_STRICT
            )
        case "structural_tag":
            assert isinstance(wanted.structural_tag, str)
            return write_tags(wanted.structural_tag, {**spaces, **_STRICT})
        case "choice":
            return grammar_from("choice", json.dumps(wanted.choice))
        case "regex":
            return grammar_from("regex", wanted.regex or "")
        case _:
            return grammar_from("grammar", wanted.grammar or "")


def _shorten(text: str) -> str:
    """An error in a line, without the matcher's state."""
    if text.startswith("NoExtension"):
        return "nothing fits it"
    text = text.partition("<state>")[0]
    text = _UNKNOWN.sub(r"not supported: keyword \1", text)
    if text.startswith("oneOf"):
        return 'not supported: keyword "oneOf" of schemas that may overlap; "anyOf" lets them'
    return " ".join(text.split())[:_MOST_TOLD]
