"""Before an answer that keeps to a grammar a model may think as it likes, if it does."""

from typing import Any

import pytest

from glinthawk.core.source import resolve_model
from glinthawk.core.structured_outputs import StructuredOutputsParams, Thoughts
from glinthawk.tokens.grammars import Grammars
from glinthawk.tokens.tokenizer import load_tokenizer

_WANTED: dict[str, dict[str, Any]] = {
    "json": {"json": {"type": "object", "properties": {"a": {"type": "integer"}}}},
    "json_object": {"json_object": True},
    "choice": {"choice": ['{"a": 1}', "no"]},
    "regex": {"regex": r"\{.a.: [0-9]+\}"},
    "grammar in GBNF": {"grammar": 'root ::= "{\\"a\\": " num "}"\nnum ::= [0-9]+'},
    "grammar in Lark": {"grammar": 'start: "{\\"a\\": " NUM "}"\nNUM: /[0-9]+/'},
}
#: Of text, and, in this model, special tokens.
_MARKS = {"text": ("<think>", "</think>"), "special": ("<|user|>", "<|end|>")}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(resolve_model("demo"))


def _fits(tokenizer: Any, thoughts: Thoughts, text: str, **wanted: Any) -> bool:
    params = StructuredOutputsParams(thoughts=thoughts, **wanted)
    matcher = Grammars(tokenizer).matcher(params)
    ids = tokenizer.encode(text, add_special_tokens=False)
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


@pytest.mark.parametrize("marks", _MARKS)
@pytest.mark.parametrize("kind", _WANTED)
def test_thoughts_come_first_or_not_at_all(tokenizer: Any, kind: str, marks: str) -> None:
    begin, end = _MARKS[marks]
    said = {
        '{"a": 1}': True,
        f'{begin}\nHm, {{"b"}}\n\n{end}\n\n{{"a": 1}}': True,
        f'{begin}{end}{{"a": 1}}': True,
        f'{begin}Hm{end}{{"b" 1}}': False,
        f'{begin}Hm{{"a": 1}}': False,
        f'Hm{end}{{"a": 1}}': False,
        f'{begin}Hm{end} {begin}Hm{end}{{"a": 1}}': False,
    }
    for text, fits in said.items():
        assert _fits(tokenizer, Thoughts(begin, end), text, **_WANTED[kind]) == fits, text


@pytest.mark.parametrize("marks", _MARKS)
@pytest.mark.parametrize("kind", _WANTED)
def test_thoughts_that_the_prompt_began_come_to_an_end(
    tokenizer: Any, kind: str, marks: str
) -> None:
    begin, end = _MARKS[marks]
    thoughts = Thoughts(begin, end, are_open=True)
    assert _fits(tokenizer, thoughts, f'Hm{end}\n{{"a": 1}}', **_WANTED[kind])
    assert _fits(tokenizer, thoughts, f'{end}{{"a": 1}}', **_WANTED[kind])
    assert not _fits(tokenizer, thoughts, '{"a": 1}', **_WANTED[kind])
