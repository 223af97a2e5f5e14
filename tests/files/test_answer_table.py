"""Results as tables and packed files say what the results say, in the input's order."""

import base64
import gzip
import json
import random
import struct
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glinthawk.core.errors import JournalError, UsageError
from glinthawk.files import answer_table, kept_columns
from glinthawk.files.answer_rows import ANSWER_COLUMNS, read_answer
from glinthawk.files.kept_columns import KeptColumns
from glinthawk.files.parts import find_parts
from glinthawk.files.results_by_line import ResultsByLine
from glinthawk.files.shard import Shard
from glinthawk.files.table_rows import FileTable
from glinthawk.files.target import Target
from input_forms import as_lines

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_ANSWERS = st.lists(st.none() | _TEXT, min_size=1, max_size=30)


def result(number: int, answer: str | None, **choice: Any) -> bytes:
    """A result line; of None an error."""
    body: dict[str, Any] = {
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer},
                "logprobs": None,
                "finish_reason": "stop",
                **choice,
            }
        ],
        "usage": {"prompt_tokens": number, "completion_tokens": 2},
    }
    error = {"code": "no", "message": f"no {number}"} if answer is None else None
    whole = {
        "id": f"batch_req_{number:09}",
        "custom_id": f"id {number}",
        "response": {"status_code": 200, "body": {} if error else body},
        "error": error,
    }
    return msgspec.json.encode(whole) + b"\n"


def row(number: int, answer: str | None) -> dict[str, Any]:
    if answer is None:
        values: tuple[Any, ...] = (None, None, None, None, f"no {number}", "no", None, None)
    else:
        values = (answer, "stop", number, 2, None, None, None, None)
    return dict(zip(ANSWER_COLUMNS, (f"id {number}", *values), strict=True))


def write_results(path: Path, answers: list[str | None], seed: int = 0) -> Path:
    """In another order than that of the input, in which every third line is blank."""
    lines = [result(number * 3 // 2, answer) for number, answer in enumerate(answers)]
    random.Random(seed).shuffle(lines)
    path.write_bytes(b"".join(lines))
    return path


@given(answers=_ANSWERS, seed=st.integers(0, 9))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_table_has_a_row_for_each_result_in_order(
    answers: list[str | None], seed: int, tmp_path: Path
) -> None:
    results = write_results(tmp_path / "results", answers, seed)
    Target(str(tmp_path / "a.parquet")).write(results, None)
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.to_pylist() == [row(n * 3 // 2, answer) for n, answer in enumerate(answers)]
    assert [number for number, _ in ResultsByLine(results)] == [
        n * 3 // 2 for n in range(len(answers))
    ]


def _pooled(number: int, data: list[Any], **more: Any) -> bytes:
    body = {"object": "list", "data": data, "usage": {"prompt_tokens": 3, "total_tokens": 3}}
    whole = {
        "id": f"batch_req_{number:09}",
        "custom_id": f"id {number}",
        "response": {"status_code": 200, "body": {**body, **more}},
        "error": None,
    }
    return msgspec.json.encode(whole) + b"\n"


def test_an_embedding_alone_is_a_column(tmp_path: Path) -> None:
    packed = base64.b64encode(struct.pack("<2f", 0.1, -2)).decode()
    vectors: list[list[Any]] = [[[0.1, -2.0]], [packed], [[0.1], [0.2]]]
    lines = [
        _pooled(
            n, [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(some)]
        )
        for n, some in enumerate(vectors)
    ]
    lines.append(_pooled(3, [{"object": "score", "index": 0, "score": 0.5}]))
    (tmp_path / "results").write_bytes(b"".join(lines))
    Target(str(tmp_path / "a.parquet")).write(tmp_path / "results", None)
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.schema.field("embedding").type == pa.list_(pa.float32())
    one, same, several, score = table.to_pylist()
    assert one["embedding"] == same["embedding"] == pytest.approx([0.1, -2.0])
    assert (one["response"], one["prompt_tokens"], one["answer"]) == (None, 3, None)
    assert several["embedding"] is None
    assert json.loads(several["response"])["data"][1]["embedding"] == [0.2]
    assert json.loads(score["response"])["data"][0]["score"] == 0.5


def test_row_groups_are_cut_by_rows_and_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_table, "_BYTES", 10_000)
    answers: list[str | None] = ["a" * 100] * 3000
    results = write_results(tmp_path / "results", answers)
    Target(str(tmp_path / "a.parquet")).write(results, None)
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == 3
    assert pq.read_table(tmp_path / "a.parquet").num_rows == 3000


def test_an_empty_job_is_an_empty_table(tmp_path: Path) -> None:
    Target(str(tmp_path / "a.parquet")).write(write_results(tmp_path / "results", []), None)
    assert pq.read_table(tmp_path / "a.parquet").column_names == list(ANSWER_COLUMNS)


def test_packed_results_are_the_results(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results", ["a", None, "b"])
    for name in ("a.gz", "b.gz", "a.zst", "memory://out/a.jsonl"):
        Target(name if "://" in name else str(tmp_path / name)).write(results, None)
    raw = results.read_bytes()
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == raw
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert (
        zstandard.ZstdDecompressor().decompressobj().decompress((tmp_path / "a.zst").read_bytes())
        == raw
    )
    (part,) = find_parts("memory://out/a.jsonl")
    with part.open() as file:
        assert file.read() == raw
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gz", "a.zst", "b.gz", "results"]


def test_what_a_row_cannot_say_is_in_the_response() -> None:
    assert read_answer(result(0, "text"))[-2] is None
    calls = {"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]}
    for more in ({"logprobs": {"content": []}}, {"message": calls}, {"token_ids": [1]}):
        response = json.loads(read_answer(result(0, "text", **more))[-2])
        assert {**response["choices"][0], **more} == response["choices"][0]
    whole = json.loads(result(0, "a"))
    whole["response"]["body"]["prompt_logprobs"] = [None]
    assert json.loads(read_answer(json.dumps(whole).encode())[-2])["prompt_logprobs"] == [None]
    whole = json.loads(result(0, "a"))
    whole["response"]["body"]["choices"] *= 2
    values = read_answer(json.dumps(whole).encode())
    assert values[1] == "a" and len(json.loads(values[-2])["choices"]) == 2


def test_other_endpoints_and_refusals_are_read() -> None:
    whole = json.loads(result(0, None))
    whole["response"]["body"] = {
        "status": "completed",
        "output": [{"content": [{"text": "a"}, {"text": "b"}]}],
        "usage": {"input_tokens": 3, "output_tokens": 4},
    }
    whole["error"] = None
    assert read_answer(json.dumps(whole).encode())[1:6] == ("ab", "completed", 3, 4, None)
    whole["response"] = {"status_code": 400, "body": {"error": {"message": "too long"}}}
    assert read_answer(json.dumps(whole).encode())[1:6] == (None, None, None, None, "too long")
    whole["response"]["body"]["error"]["code"] = "length"
    assert read_answer(json.dumps(whole).encode())[5:] == ("too long", "length", None, None)


# Columns of the input

ROWS = [{"id": n, "text": f"text {n}", "tags": ["a"] * (n % 3), "late": None} for n in range(50)]
ROWS += [{"id": n, "text": None, "tags": None, "late": 0.5} for n in range(50, 60)]


def tables(folder: Path, form: str) -> list[FileTable]:
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS[:20]), folder / "0.parquet")
        pq.write_table(pa.Table.from_pylist(ROWS[20:]), folder / "1.parquet")
    else:
        (folder / "0.jsonl").write_bytes(as_lines(ROWS[:20]))
        (folder / "1.jsonl").write_bytes(as_lines(ROWS[20:]))
    return [FileTable(part) for part in find_parts(str(folder))]


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
@pytest.mark.parametrize("names", [None, ("text", "tags")])
@pytest.mark.parametrize("shard", [None, Shard(2, 7)])
@pytest.mark.parametrize("rows_at_a_time", [3, 1024])
def test_columns_stand_beside_their_answers(
    form: str,
    names: tuple[str, ...] | None,
    shard: Shard | None,
    rows_at_a_time: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kept_columns, "_ROWS", rows_at_a_time)
    numbers = [n for n in range(60) if shard is None or n in shard]
    lines = [result(number, f"answer {number}") for number in numbers]
    random.Random(0).shuffle(lines)
    (tmp_path / "results").write_bytes(b"".join(lines))
    (tmp_path / "in").mkdir()
    kept = KeptColumns(tables(tmp_path / "in", form), names, shard)
    Target(str(tmp_path / "a.parquet")).write(tmp_path / "results", kept)
    chosen = names or tuple(ROWS[0])
    assert pq.read_table(tmp_path / "a.parquet").to_pylist() == [
        {name: ROWS[n][name] for name in chosen} | row(n, f"answer {n}") for n in numbers
    ]


@pytest.mark.parametrize("names", [None, ("b",)])
def test_tables_without_a_column_have_nulls(names: tuple[str, ...] | None, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "in" / "0.parquet")
    pq.write_table(pa.table({"b": ["x"], "a": [0.5]}), tmp_path / "in" / "1.parquet")
    kept = KeptColumns([FileTable(p) for p in find_parts(str(tmp_path / "in"))], names, None)
    (tmp_path / "results").write_bytes(b"".join(result(number, "a") for number in range(3)))
    Target(str(tmp_path / "a.parquet")).write(tmp_path / "results", kept)
    rows = [{"a": 1.0, "b": None}, {"a": 2.0, "b": None}, {"a": 0.5, "b": "x"}]
    assert pq.read_table(tmp_path / "a.parquet").to_pylist() == [
        {name: cells[name] for name in names or cells} | row(number, "a")
        for number, cells in enumerate(rows)
    ]


def test_columns_that_cannot_be_kept_are_named(tmp_path: Path) -> None:
    some = tables(tmp_path, "jsonl")
    with pytest.raises(UsageError, match="there is no column nothing; there are id, text"):
        KeptColumns(some, ("nothing",), None)
    (tmp_path / "1.jsonl").write_text('{"answer": 1}\n')
    with pytest.raises(UsageError, match="answer is a column of the answers, too"):
        KeptColumns(some, None, None)
    (tmp_path / "1.jsonl").write_text('{"text": [1]}\n')
    with pytest.raises(UsageError, match="different types"):
        KeptColumns(some, None, None)
    (tmp_path / "1.jsonl").write_text('{"text": [1]}\n{"text": "a"}\n')
    with pytest.raises(UsageError, match="values of different types"):
        KeptColumns(some, None, None)


def test_a_table_that_has_changed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    kept = KeptColumns(tables(tmp_path / "in", "jsonl"), None, None)
    for count, says in ((59, "more rows"), (61, "fewer rows")):
        (tmp_path / "results").write_bytes(b"".join(result(n, "a") for n in range(count)))
        with pytest.raises(JournalError, match=says):
            Target(str(tmp_path / "a.parquet")).write(tmp_path / "results", kept)
        assert not (tmp_path / "a.parquet").exists()
