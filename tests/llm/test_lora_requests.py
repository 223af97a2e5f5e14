"""Adapters from Python and in a job of the command line: the same answers, by name."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from commands import call, line, results, write_lines
from glinthawk import LLM, AsyncLLM, LoRARequest, SamplingParams, UsageError
from glinthawk.core.source import resolve_model
from glinthawk.serve.interactive_routes import InteractiveRoutes
from lora_adapters import write_adapter

_PARAMS = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
_PROMPT = "The list type is"


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder, model = tmp_path_factory.mktemp("adapters"), Path(resolve_model("demo"))
    targets = ("q_proj", "v_proj", "up_proj")
    return {
        name: str(write_adapter(folder / name, model, targets, seed))
        for seed, name in enumerate(("sql", "prose"))
    }


@pytest.fixture(scope="module")
def llm(adapters: dict[str, str]) -> Iterator[LLM]:
    with LLM("demo", lora=adapters, tier1_kv="8MiB", dtype="float32", batch_size=8) as llm:
        yield llm


@pytest.fixture(scope="module")
def answers(llm: LLM) -> dict[str | None, list[int]]:
    names = [None, "sql", "prose"]
    outputs = llm.generate([_PROMPT] * 3, _PARAMS, use_tqdm=False, lora_request=names)
    texts = {name: output.outputs[0].token_ids for name, output in zip(names, outputs, strict=True)}
    assert len({tuple(tokens) for tokens in texts.values()}) == 3
    return {name: list(tokens) for name, tokens in texts.items()}


def test_one_adapter_for_all_prompts(llm: LLM, answers: dict[str | None, list[int]]) -> None:
    for asked in ("prose", LoRARequest("prose", 3, "anywhere")):
        (output,) = llm.generate(_PROMPT, _PARAMS, use_tqdm=False, lora_request=asked)
        assert list(output.outputs[0].token_ids) == answers["prose"]
    said = [{"role": "user", "content": "Hello"}]
    own, other = (
        llm.chat(said, _PARAMS, use_tqdm=False, lora_request=name)[0].outputs[0].token_ids
        for name in (None, "sql")
    )
    assert own != other


def test_rows_and_embeddings(llm: LLM, answers: dict[str | None, list[int]]) -> None:
    rows = [{"text": _PROMPT}]
    told: dict[str, Any] = {"prompt_column": "text", "endpoint": "completions", "use_tqdm": False}
    mapped = llm.map(rows, _PARAMS, body={"model": "sql"}, **told)
    plain = llm.map(rows, _PARAMS, **told)
    assert mapped[0]["answer"] != plain[0]["answer"]
    vectors = [
        llm.embed(_PROMPT, use_tqdm=False, lora_request=name)[0].outputs.embedding
        for name in (None, "sql")
    ]
    assert vectors[0] != vectors[1]


def test_adapters_that_there_are_not(llm: LLM) -> None:
    with pytest.raises(UsageError, match="'other', there are sql, prose"):
        llm.generate(_PROMPT, _PARAMS, lora_request="other")
    with pytest.raises(ValueError, match="1 prompts but 2 in lora_request"):
        llm.generate(_PROMPT, _PARAMS, lora_request=["sql", "sql"])
    with pytest.raises(TypeError, match=r"enable_lora.*lora=\['NAME=PATH'\]"):
        LLM("demo", enable_lora=True)


def test_those_who_await(adapters: dict[str, str], answers: dict[str | None, list[int]]) -> None:
    async def last(llm: AsyncLLM) -> list[int]:
        tokens: list[int] = []
        async for output in llm.generate(_PROMPT, _PARAMS, lora_request="sql"):
            tokens = list(output.outputs[0].token_ids)
        return tokens

    with AsyncLLM("demo", lora=adapters, tier1_kv="8MiB", dtype="float32", batch_size=8) as llm:
        assert asyncio.run(last(llm)) == answers["sql"]


def test_lines_of_a_job(
    tmp_path: Path, adapters: dict[str, str], answers: dict[str | None, list[int]]
) -> None:
    body = {"prompt": _PROMPT, "temperature": 0, "max_tokens": 8, "ignore_eos": True}
    names = {"a": None, "b": "sql", "c": "prose", "d": "gpt-4o"}
    lines = [
        line(custom_id, **body, model=name, return_token_ids=True)
        for custom_id, name in names.items()
    ]
    source, output = write_lines(tmp_path / "in", lines), tmp_path / "out"
    told = ["run", "-m", "demo", "-i", source, "-o", output, "--dtype", "float32", "--quiet"]
    told += ["--tier1-kv", "8MiB", "--batch-size", "8"]
    sql, prose = (f"{name}={path}" for name, path in adapters.items())
    done = call(*told, "--lora", sql, "--lora-modules", prose)
    assert done.returncode == 0, done.stderr
    bodies = {one["custom_id"]: one["response"]["body"] for one in results(output).values()}
    assert [bodies[one]["model"] for one in "abcd"] == ["demo", "sql", "prose", "demo"]
    for custom_id, name in names.items():
        tokens = bodies[custom_id]["choices"][0]["token_ids"]
        assert tokens == answers[name if name in adapters else None]
    # Other adapters are another job; their order is none.
    again = call(*told, "--lora", prose, "--lora", sql)
    assert again.returncode == 0, again.stderr
    other = call(*told, "--lora", sql)
    assert other.returncode == 2
    assert "begun with other settings: lora was" in other.stderr


def test_a_server_lists_them() -> None:
    model: Any = SimpleNamespace(
        name="demo", adapters=("sql",), limits=SimpleNamespace(max_model_len=64)
    )
    routes = InteractiveRoutes(None, model, 1)  # type: ignore[arg-type]
    said = json.loads(routes.models(None).body)["data"]  # type: ignore[arg-type]
    assert [(one["id"], one.get("parent")) for one in said] == [("demo", None), ("sql", "demo")]
