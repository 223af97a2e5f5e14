"""Jobs of embeddings and scores by the command: beside chats, from tables, recorded, resumed."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoModelForCausalLM

from commands import call, results, write_lines
from families import make_model
from result_schema import error_of

_KV = ("--tier1-kv", "16MiB", "--quiet")


def _line(name: str, url: str, **body: Any) -> dict[str, Any]:
    return {"custom_id": name, "method": "POST", "url": url, "body": body}


def _run(model: object, source: Path, output: Path, *more: object) -> Any:
    return call("run", "-m", model, "-i", source, "-o", output, *_KV, *more)


def _by_name(output: Path) -> dict[str, dict[str, Any]]:
    return {one["custom_id"]: one for one in results(output).values()}


def test_pairs_that_a_tokenizer_cannot_judge_can_be_compared(tmp_path: Path) -> None:
    lines = [_line("a", "/v1/rerank", query="open", documents=["open", "list"])]
    source, output = write_lines(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"
    assert _run("demo", source, output, "--reranker", "qwen3").returncode == 1
    error = error_of(_by_name(output)["a"])
    assert error is not None
    assert error["code"] == "model_not_supported"
    assert "use --reranker none" in error["message"]
    done = _run("demo", source, output, "--reranker", "none", "--restart")
    assert done.returncode == 0, done.stderr


def test_a_column_is_embedded(tmp_path: Path) -> None:
    texts = ["open a file", None, "list"]
    pq.write_table(pa.table({"text": texts, "n": [1, 2, 3]}), tmp_path / "in.parquet")
    asked = ("--prompt-column", "text", "--endpoint", "embeddings", "--body", '{"dimensions": 8}')
    more = (*asked, "--keep-columns", "n")
    done = _run("demo", tmp_path / "in.parquet", tmp_path / "out.parquet", *more)
    assert done.returncode == 1, done.stderr
    table = pq.read_table(tmp_path / "out.parquet")
    assert [None if v is None else len(v) for v in table["embedding"].to_pylist()] == [8, None, 8]
    assert table["n"].to_pylist() == [1, 2, 3]
    assert "input must be a string" in table["error"][1].as_py()
    wrong = _run("demo", tmp_path / "in.parquet", tmp_path / "b", *asked[:3], "vectors")
    assert wrong.returncode == 2
    assert "--endpoint is one of chat, completions, embeddings" in wrong.stderr


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), "llama")


def test_a_pooled_run_is_recorded_and_run_again(model: Path, tmp_path: Path) -> None:
    lines = [
        _line(f"e-{n}", "/v1/embeddings", input=list(range(3, 9 + 9 * n)), user="u")
        for n in range(12)
    ]
    lines += [
        _line(f"c-{n}", "/v1/completions", prompt=list(range(4, 9 + n)), max_tokens=5)
        for n in range(6)
    ]
    source, output = write_lines(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"
    events = tmp_path / "events"
    more = ("--tier2", "local:1", "--worker-kv", "1MiB", "--batch-tokens", 20)
    done = _run(model, source, output, *more, "--event-log", events)
    assert done.returncode == 0, done.stderr
    again = call("replay", events)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "18 submitted" in again.stdout
    first = output.read_bytes()
    kept = first.splitlines(keepends=True)
    output.write_bytes(b"".join(kept[:5]))
    assert _run(model, source, output, *more).returncode == 0
    assert len(_by_name(output)) == 18


def test_a_base_model_answers_no_chat(model: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(model).base_model.save_pretrained(tmp_path / "base")
    lines = [
        _line("embed", "/v1/embeddings", input=[5, 6, 7]),
        _line("text", "/v1/completions", prompt=[5, 6, 7]),
    ]
    source, output = write_lines(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"
    assert _run(tmp_path / "base", source, output).returncode == 1
    found = _by_name(output)
    assert len(found["embed"]["response"]["body"]["data"][0]["embedding"]) == 64
    error = error_of(found["text"])
    assert error is not None
    assert "ask it for embeddings" in error["message"]
    assert error["code"] == "model_not_supported"
