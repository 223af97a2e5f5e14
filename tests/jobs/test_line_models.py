"""A line's model: an adapter by its name, else the model itself."""

import json
from dataclasses import replace
from typing import Any

import pytest

from glinthawk.jobs.line_rules import LineRules
from glinthawk.jobs.lines import LineReader, Refusal, Task
from glinthawk.jobs.task_requests import TaskRequests


def _read(reader: LineReader, url: str, **body: Any) -> Task | Refusal:
    said = {"custom_id": "a", "method": "POST", "url": url, "body": body}
    return reader.read(0, json.dumps(said).encode())


@pytest.mark.parametrize(
    ("asked", "served", "called", "number"),
    [
        (None, None, "tiny", 0),
        ("gpt-4o", None, "tiny", 0),
        ("sql", None, "sql", 1),
        ("prose", None, "prose", 2),
        (None, "mine", "mine", 0),
        ("mine", "mine", "mine", 0),
        ("prose", "mine", "prose", 2),
    ],
)
def test_a_line_takes_the_adapter_that_it_names(
    reader: LineReader, asked: str | None, served: str | None, called: str, number: int
) -> None:
    rules = LineRules(served_model_name=served)
    named = replace(reader, adapters=("sql", "prose"), rules=rules)
    for url, body in (
        ("/v1/completions", {"prompt": "ab"}),
        ("/v1/embeddings", {"input": "ab"}),
    ):
        task = _read(named, url, **body, model=asked)
        assert isinstance(task, Task)
        assert (task.model, task.adapter) == (called, number)
        request = TaskRequests(reader.text, frozenset(), 0).make(task, 0, 7)
        assert request.adapter == number


def test_a_model_that_there_is_not_is_told_which_there_are(reader: LineReader) -> None:
    rules = LineRules(served_model_name="mine")
    named = replace(reader, adapters=("sql",), rules=rules)
    refused = _read(named, "/v1/completions", prompt="ab", model="sqll")
    assert isinstance(refused, Refusal)
    assert str(refused.error).startswith("model is 'sqll', and 'mine' or 'sql' answers")
