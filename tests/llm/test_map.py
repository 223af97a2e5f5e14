"""``LLM.map``: every form of data gets the answers that a job gives, and bad rows stay alone."""

import json
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import datasets
import numpy as np
import pandas
import polars
import pyarrow
import pytest

from glinthawk import LLM, SamplingParams, StructuredOutputsParams, UsageError
from glinthawk.llm import row_answers

Rows = list[dict[str, Any]]

GREEDY = SamplingParams(temperature=0, max_tokens=6)
ROWS: Rows = [{"id": n, "text": f"What is a {w}?"} for n, w in enumerate(["list", "dict", "set"])]
_OUTPUT = ["answer", "finish_reason", "prompt_tokens", "completion_tokens", "error", "error_code"]


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM("demo", tier1_kv="64MiB", batch_size=16) as llm:
        yield llm


def _columns(rows: Rows) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def _reader(rows: Rows) -> Any:
    table = pyarrow.Table.from_pylist(rows)
    return pyarrow.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=2))


#: How each form is made of rows, and read as rows.
FORMS: dict[str, tuple[Callable[[Rows], Any], Callable[[Any], Rows]]] = {
    "list": (list, list),
    "generator": (iter, list),
    "pyarrow": (pyarrow.Table.from_pylist, lambda table: table.to_pylist()),
    "reader": (_reader, lambda reader: reader.read_all().to_pylist()),
    "dataset": (datasets.Dataset.from_list, list),
    "iterable": (lambda rows: datasets.Dataset.from_list(rows).to_iterable_dataset(), list),
    "pandas": (
        pandas.DataFrame,
        lambda frame: json.loads(frame.to_json(orient="records")),
    ),
    "polars": (polars.DataFrame, lambda frame: frame.to_dicts()),
    "numpy": (
        lambda rows: {name: np.array(values) for name, values in _columns(rows).items()},
        lambda data: [
            dict(zip(data, row, strict=True))
            for row in zip(*(one.tolist() for one in data.values()), strict=True)
        ],
    ),
}
LAZY = {"generator", "reader", "iterable"}


@pytest.fixture(scope="module")
def truth(llm: LLM) -> Rows:
    chats = [[{"role": "user", "content": row["text"]}] for row in ROWS]
    outputs = llm.chat(chats, GREEDY, use_tqdm=False)
    return [
        {
            **row,
            "answer": output.outputs[0].text,
            "finish_reason": output.outputs[0].finish_reason,
            "prompt_tokens": len(output.prompt_token_ids),
            "completion_tokens": len(output.outputs[0].token_ids),
            "error": None,
            "error_code": None,
            "response": None,
        }
        for row, output in zip(ROWS, outputs, strict=True)
    ]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_comes_back_with_the_answers_of_chat(llm: LLM, form: str, truth: Rows) -> None:
    make, read = FORMS[form]
    data = make(ROWS)
    mapped = llm.map(data, GREEDY, prompt_column="text", use_tqdm=False)
    if form != "generator":
        assert type(mapped) is type(data)
    assert read(mapped) == truth


@pytest.mark.parametrize("form", FORMS)
def test_no_rows_are_no_answers(llm: LLM, form: str) -> None:
    make, read = FORMS[form]
    if form in {"list", "generator"}:
        data = make([])
    elif form == "iterable":
        data = datasets.IterableDataset.from_generator(lambda: iter(()))
    elif form == "reader":
        data = pyarrow.RecordBatchReader.from_batches(pyarrow.schema([("text", "string")]), [])
    elif form == "numpy":
        data = {"text": np.array([], dtype=object)}
    else:
        kinds: dict[str, Any] = {
            "pyarrow": lambda: pyarrow.schema([("text", "string")]).empty_table(),
            "dataset": lambda: datasets.Dataset.from_dict({"text": []}),
            "pandas": lambda: pandas.DataFrame({"text": []}),
            "polars": lambda: polars.DataFrame({"text": []}),
        }
        data = kinds[form]()
    mapped = llm.map(data, GREEDY, prompt_column="text", use_tqdm=False)
    assert read(mapped) == []


@pytest.mark.parametrize("form", FORMS)
def test_a_bad_row_is_its_own_error(llm: LLM, form: str) -> None:
    make, read = FORMS[form]
    rows = [{"text": "What is a list? " * (400 if n == 1 else 1)} for n in range(4)]
    (*others, bad) = [read(llm.map(make(rows), GREEDY, prompt_column="text"))[n] for n in (0, 2, 1)]
    assert bad["answer"] is None and bad["error_code"] == "context_length_exceeded"
    assert "1024" in bad["error"]
    assert all(row["answer"] and row["error"] is None for row in others)


def test_templates_messages_and_texts(llm: LLM) -> None:
    rows = [{"a": "list", "chat": [{"role": "user", "content": "What is a list?"}]}] * 2
    table = pyarrow.Table.from_pylist(rows)
    asked: list[dict[str, Any]] = [
        {"template": "What is a {{ a }}?"},
        {"messages_column": "chat"},
        {"template": "{{ row.chat[0].content }}"},
    ]
    answers = [llm.map(table, GREEDY, **how)["answer"].to_pylist() for how in asked]
    assert answers[0] == answers[1] == answers[2] == [answers[0][0]] * 2
    written = llm.map(table, GREEDY, template="The {{ a }} type is", endpoint="completions")
    (output,) = llm.generate("The list type is", GREEDY, use_tqdm=False)
    assert written["answer"].to_pylist() == [output.outputs[0].text] * 2
    constant = llm.map(table, GREEDY, template="What is a list?")
    assert constant["answer"].to_pylist() == answers[0]


def test_a_template_that_fails_fails_its_row(llm: LLM) -> None:
    rows = [{"n": 1}, {"n": 0}, {"n": None}, {"n": 2}]
    mapped = llm.map(rows, GREEDY, template="What is {{ 4 // n }}?")
    assert [row["error_code"] for row in mapped] == [None, "invalid_row", "invalid_row", None]
    assert "row 1" in mapped[1]["error"]
    mapped = llm.map([{"n": "\ud800"}, {"n": "a"}], GREEDY, prompt_column="n")
    assert [row["error_code"] for row in mapped] == ["invalid_row", None]


def test_what_says_more_stands_in_the_response(llm: LLM) -> None:
    params = SamplingParams(n=2, seed=5, max_tokens=4, logprobs=1)
    (row,) = llm.map([{"text": "What is a list?"}], params, prompt_column="text")
    choices = json.loads(row["response"])["choices"]
    assert [choice["index"] for choice in choices] == [0, 1]
    assert choices[0]["message"]["content"] == row["answer"]
    assert len(choices[0]["logprobs"]["content"]) == row["completion_tokens"] / 2
    held = SamplingParams(structured_outputs=StructuredOutputsParams(choice=["yes", "no"]))
    (row,) = llm.map([{"text": "What is a list?"}], held, prompt_column="text")
    assert row["answer"] in ("yes", "no")


def test_a_body_says_what_a_line_says(llm: LLM) -> None:
    body = {"temperature": 0, "max_tokens": 6, "response_format": {"type": "json_object"}}
    (row,) = llm.map([{"text": "What is a list?"}], prompt_column="text", body=body)
    assert row["answer"].startswith("{")
    with pytest.raises(UsageError, match="body cannot say max_tokens"):
        llm.map([], GREEDY, prompt_column="text", body=body)


def test_pandas_keeps_its_index_and_missing_values(llm: LLM) -> None:
    frame = pandas.DataFrame({"text": ["What is a list?", None]}, index=["x", "x"])
    mapped = llm.map(frame, GREEDY, prompt_column="text")
    assert list(mapped.index) == ["x", "x"]
    assert list(frame.columns) == ["text"]
    assert mapped["prompt_tokens"].dtype == "Int64"
    assert mapped["error"].isna().tolist() == [True, False]


@pytest.mark.parametrize(
    ("data", "how", "says"),
    [
        ([{"text": "a"}], {"prompt_column": "prompt"}, "no column prompt"),
        (pandas.DataFrame({"text": []}), {"template": "{{ prompt }}"}, "no column prompt"),
        ([{"text": "a", "answer": "b"}], {"prompt_column": "text"}, "a column answer already"),
        (polars.DataFrame({"error": []}), {"prompt_column": "error"}, "a column error already"),
        (
            [{"text": "a"}, {"text": "b", "answer": "c"}],
            {"prompt_column": "text"},
            "a column answer already",
        ),
        ([{"text": "a"}], {}, "say what a row is asked"),
        ([{"text": "a"}], {"prompt_column": "text", "template": "a"}, "give one of"),
        ({"text": ["a"]}, {"prompt_column": "text"}, "cannot be read from a dict"),
        ("text", {"prompt_column": "text"}, "cannot be read from a str"),
        (5, {"prompt_column": "text"}, "cannot be read from a int"),
    ],
)
def test_what_cannot_be_asked_is_said_at_once(
    llm: LLM, data: Any, how: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        llm.map(data, GREEDY, **how)


@pytest.mark.parametrize("form", sorted(LAZY))
def test_a_stream_is_read_as_it_is_answered(
    llm: LLM, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never more rows are under way than the window has, and none is read before it is needed."""
    monkeypatch.setattr(row_answers, "_WINDOW", 8)
    num_read = 0

    def source() -> Iterator[dict[str, Any]]:
        nonlocal num_read
        for number in range(60):
            num_read += 1
            yield {"text": None if number % 3 == 0 else f"What is a {number}?"}

    def batches() -> Iterator[Any]:
        schema = pyarrow.schema([("text", "string")])
        for row in source():
            yield pyarrow.RecordBatch.from_pylist([row], schema=schema)

    data: Any = source()
    if form == "reader":
        schema = pyarrow.schema([("text", "string")])
        data = pyarrow.RecordBatchReader.from_batches(schema, batches())
    if form == "iterable":
        data = datasets.IterableDataset.from_generator(source)
    mapped = llm.map(data, GREEDY, prompt_column="text")
    seen = []
    for number, row in enumerate(mapped):
        seen.append(row)
        assert num_read <= number + 8 + 2
    assert len(seen) == num_read == 60
    errors = [(row["error"] if form != "reader" else row["error"][0].as_py()) for row in seen]
    assert [error is not None for error in errors] == [n % 3 == 0 for n in range(60)]


def test_a_dataset_of_bad_rows_alone_ends(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_answers, "_WINDOW", 4)
    mapped = llm.map(({"text": None} for _ in range(30)), GREEDY, prompt_column="text")
    assert [row["error"] is not None for row in mapped] == [True] * 30


def test_a_stream_that_is_left_leaves_nothing(llm: LLM, truth: Rows) -> None:
    mapped = llm.map(({"text": "What is a list?"} for _ in range(50)), GREEDY, prompt_column="text")
    next(mapped)
    mapped.close()
    (output,) = llm.chat([{"role": "user", "content": ROWS[0]["text"]}], GREEDY, use_tqdm=False)
    assert output.outputs[0].text == truth[0]["answer"]


def test_an_iterable_dataset_is_answered_each_time(llm: LLM, truth: Rows) -> None:
    data = datasets.Dataset.from_list(ROWS).to_iterable_dataset()
    mapped = llm.map(data, GREEDY, prompt_column="text")
    assert list(mapped) == list(mapped) == truth
    assert list(mapped.take(1)) == truth[:1]
    assert mapped.features is not None and "answer" in mapped.features


def test_what_is_read_after_the_end_is_told_so() -> None:
    with LLM("demo", tier1_kv="16MiB", batch_size=4) as llm:
        rows = llm.map(({"text": f"What is a {n}?"} for n in range(60)), prompt_column="text")
        assert next(rows)["answer"]
    with pytest.raises(UsageError, match="closed"):
        deque(rows)
