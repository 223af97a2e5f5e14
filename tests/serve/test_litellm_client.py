"""LiteLLM's client does with the server what it does with OpenAI. Skipped where it is missing."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from commands import line
from servers import ENDED, Server
from watching import wait_until

# Else it asks the network for prices when it is imported.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
litellm: Any = pytest.importorskip("litellm")

pytestmark = pytest.mark.filterwarnings("ignore")
HELLO = [{"role": "user", "content": "What is a list?"}]


@pytest.fixture(scope="module")
def given(server: Server) -> dict[str, Any]:
    """What every call of files and batches takes."""
    return {"custom_llm_provider": "openai", "api_base": server.url, "api_key": "any"}


@pytest.fixture(scope="module")
def asking(server: Server) -> dict[str, Any]:
    """What every single request takes."""
    return {"model": "openai/demo", "api_base": server.url, "api_key": "any", "max_tokens": 12}


def _hand_in(given: dict[str, Any], folder: Path, count: int, **body: Any) -> tuple[str, str]:
    lines = [line(str(n), messages=HELLO, **body) for n in range(count)]
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    with path.open("rb") as content:
        file = litellm.create_file(file=content, purpose="batch", **given)
    batch = litellm.create_batch(
        completion_window="24h",
        endpoint="/v1/chat/completions",
        input_file_id=file.id,
        metadata={"who": "litellm"},
        **given,
    )
    return file.id, batch.id


def _wait_for(given: dict[str, Any], id: str) -> Any:
    wait_until(lambda: litellm.retrieve_batch(batch_id=id, **given).status in ENDED)
    return litellm.retrieve_batch(batch_id=id, **given)


def test_a_batch_is_handed_in_and_fetched(given: dict[str, Any], tmp_path: Path) -> None:
    file, id = _hand_in(given, tmp_path, 3, max_tokens=8)
    done = _wait_for(given, id)
    assert done.status == "completed" and done.metadata == {"who": "litellm"}
    assert done.request_counts.completed == 3 and done.input_file_id == file
    content = litellm.file_content(file_id=done.output_file_id, **given).content
    found = [json.loads(one) for one in content.splitlines()]
    assert sorted(one["custom_id"] for one in found) == ["0", "1", "2"]
    assert id in [one.id for one in litellm.list_batches(**given).data]


def test_a_batch_is_cancelled(given: dict[str, Any], tmp_path: Path) -> None:
    _, id = _hand_in(given, tmp_path, 200, max_tokens=900, ignore_eos=True)
    assert litellm.cancel_batch(batch_id=id, **given).status == "cancelling"
    assert _wait_for(given, id).status == "cancelled"


def test_files_are_listed_retrieved_and_deleted(given: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    path.write_text('{"a": 1}\n')
    with path.open("rb") as content:
        id = litellm.create_file(file=content, purpose="batch", **given).id
    assert litellm.file_retrieve(file_id=id, **given).bytes == 9
    assert id in [one.id for one in litellm.file_list(**given)]
    assert litellm.file_delete(file_id=id, **given).deleted
    with pytest.raises(Exception, match=id):
        litellm.file_retrieve(file_id=id, **given)


def test_chats_are_answered_streamed_and_awaited(asking: dict[str, Any]) -> None:
    asked = {**asking, "messages": HELLO, "temperature": 0}
    said = litellm.completion(**asked).choices[0].message.content
    assert said
    pieces = [
        one.choices[0].delta.content or "" for one in litellm.completion(**asked, stream=True)
    ]
    assert "".join(pieces) == said and len(pieces) > 2

    async def go() -> list[str]:
        answers = await asyncio.gather(*(litellm.acompletion(**asked) for _ in range(4)))
        return [one.choices[0].message.content for one in answers]

    assert asyncio.run(go()) == [said] * 4


def test_texts_are_completed(asking: dict[str, Any]) -> None:
    asked = {**asking, "model": "text-completion-openai/demo", "prompt": "The list"}
    assert litellm.text_completion(**asked, temperature=0).choices[0].text


def test_a_response_is_made(asking: dict[str, Any]) -> None:
    asked = {name: asking[name] for name in ("model", "api_base", "api_key")}
    answer = litellm.responses(**asked, input="What is a list?", max_output_tokens=12)
    assert answer.output[0].content[0].text


def test_errors_are_its_own(asking: dict[str, Any]) -> None:
    with pytest.raises(litellm.BadRequestError, match="temperature"):
        litellm.completion(**asking, messages=HELLO, temperature=-1)
    other = asking | {"model": "openai/other"}
    with pytest.raises(litellm.NotFoundError, match="there is no model"):
        litellm.completion(**other, messages=HELLO)
