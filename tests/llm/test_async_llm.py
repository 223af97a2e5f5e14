"""AsyncLLM: many who ask at once get what ``LLM.generate`` gives, and do not disturb each other."""

import asyncio
from collections.abc import Coroutine, Iterator
from itertools import pairwise
from typing import Any

import pytest

from glinthawk import (
    LLM,
    AsyncLLM,
    RequestError,
    RequestOutput,
    RequestOutputKind,
    SamplingParams,
    UsageError,
)

_PROMPTS = [f"Number {number} is" for number in range(24)]
_RULES: list[dict[str, Any]] = [
    {"temperature": 0, "max_tokens": 24},
    {"temperature": 0.9, "max_tokens": 24, "logprobs": 2, "prompt_logprobs": 1},
    {"temperature": 0.9, "seed": 4, "n": 3, "max_tokens": 17},
    {"temperature": 0, "max_tokens": 24, "stop": ["a ", "the", "."]},
    {"temperature": 0, "max_tokens": 24, "stop": ["o"], "include_stop_str_in_output": True},
    {"temperature": 1.2, "max_tokens": 9, "skip_special_tokens": False, "ignore_eos": True},
    {"temperature": 0, "max_tokens": 9, "detokenize": False},
    {"max_tokens": 0, "prompt_logprobs": 0},
]
_LONG = SamplingParams(temperature=0, max_tokens=900, ignore_eos=True)


def _params(kind: RequestOutputKind) -> list[SamplingParams]:
    rules = [_RULES[number % len(_RULES)] for number in range(len(_PROMPTS))]
    return [SamplingParams(output_kind=kind, **rule) for rule in rules]


@pytest.fixture(scope="module")
def truth() -> list[RequestOutput]:
    with LLM("demo", dtype="float32", tier1_kv="64MiB", batch_size=16) as llm:
        params = _params(RequestOutputKind.FINAL_ONLY)
        return llm.generate(_PROMPTS, params, use_tqdm=False)


@pytest.fixture(scope="module")
def llm() -> Iterator[AsyncLLM]:
    with AsyncLLM("demo", dtype="float32", tier1_kv="64MiB", batch_size=16) as llm:
        yield llm


async def _all(llm: AsyncLLM, number: int, params: SamplingParams) -> list[RequestOutput]:
    asked = llm.generate(_PROMPTS[number], params, request_id=str(number))
    return [output async for output in asked]


def _answer_all(llm: AsyncLLM, kind: RequestOutputKind) -> list[list[RequestOutput]]:
    async def together() -> list[list[RequestOutput]]:
        each = (_all(llm, number, params) for number, params in enumerate(_params(kind)))
        return await asyncio.gather(*each)

    return asyncio.run(together())


def _same(output: RequestOutput, truth: RequestOutput) -> None:
    """But for logarithms, which are rounded by the company."""
    assert (output.request_id, output.prompt) == (truth.request_id, truth.prompt)
    assert output.prompt_token_ids == truth.prompt_token_ids
    assert output.finished
    for one, other in zip(output.outputs, truth.outputs, strict=True):
        assert (one.index, one.token_ids, one.text) == (other.index, other.token_ids, other.text)
        assert (one.finish_reason, one.stop_reason) == (other.finish_reason, other.stop_reason)
        assert [[*at] for at in one.logprobs or ()] == [[*at] for at in other.logprobs or ()]
    scores, others = output.prompt_logprobs, truth.prompt_logprobs
    assert [at and [*at] for at in scores or ()] == [at and [*at] for at in others or ()]


def test_the_last_output_alone_is_that_of_generate(
    llm: AsyncLLM, truth: list[RequestOutput]
) -> None:
    for outputs, expected in zip(
        _answer_all(llm, RequestOutputKind.FINAL_ONLY), truth, strict=True
    ):
        (output,) = outputs
        _same(output, expected)


def test_answers_grow_to_what_generate_gives(llm: AsyncLLM, truth: list[RequestOutput]) -> None:
    """Nothing that was shown is taken back."""
    num_parts = 0
    for outputs, expected in zip(
        _answer_all(llm, RequestOutputKind.CUMULATIVE), truth, strict=True
    ):
        _same(outputs[-1], expected)
        num_parts += len(outputs) - 1
        for before, after in pairwise(outputs):
            assert not before.finished
            for one, other in zip(before.outputs, after.outputs, strict=True):
                assert other.text.startswith(one.text)
                assert other.token_ids[: len(one.token_ids)] == one.token_ids
                assert len(one.logprobs or ()) in (0, len(one.token_ids))
    assert num_parts > 2 * len(_PROMPTS)


def test_deltas_add_up(llm: AsyncLLM, truth: list[RequestOutput]) -> None:
    for outputs, expected in zip(_answer_all(llm, RequestOutputKind.DELTA), truth, strict=True):
        assert [output.finished for output in outputs] == [False] * (len(outputs) - 1) + [True]
        for index, whole in enumerate(expected.outputs):
            parts = [one for output in outputs for one in output.outputs if one.index == index]
            assert "".join(one.text for one in parts) == whole.text
            assert [token for one in parts for token in one.token_ids] == whole.token_ids
            assert [part.finish_reason for part in parts if part.finish_reason] == [
                whole.finish_reason
            ]
            logprobs = [[*at] for one in parts for at in one.logprobs or ()]
            assert logprobs == [[*at] for at in whole.logprobs or ()]


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Within a time that only a deadlock takes."""

    async def bounded() -> None:
        await asyncio.wait_for(work, 300)

    asyncio.run(bounded())


def _idle(llm: AsyncLLM) -> bool:
    _, engine = llm._parts
    return not llm._open and engine.run.engine.scheduler.is_idle and not engine._open


async def _until_idle(llm: AsyncLLM) -> None:
    while not _idle(llm):
        await asyncio.sleep(0.01)


def test_who_leaves_gives_the_answer_up(llm: AsyncLLM, truth: list[RequestOutput]) -> None:
    async def leave() -> None:
        async for output in llm.generate("The list type is", _LONG):
            assert not output.finished
            break
        await _until_idle(llm)

    async def cancel() -> None:
        begun = asyncio.Event()

        async def ask() -> None:
            async for _ in llm.generate("The list type is", _LONG):
                begun.set()

        task = asyncio.create_task(ask())
        other = asyncio.create_task(_all(llm, 0, _params(RequestOutputKind.CUMULATIVE)[0]))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        _same((await other)[-1], truth[0])
        await _until_idle(llm)

    _run(leave())
    _run(cancel())


@pytest.mark.parametrize("kind", RequestOutputKind)
def test_an_aborted_request_says_so(llm: AsyncLLM, kind: RequestOutputKind) -> None:
    async def work() -> None:
        begun = asyncio.Event()
        params = SamplingParams(
            temperature=0, max_tokens=900, ignore_eos=True, n=2, output_kind=kind
        )

        async def ask() -> list[RequestOutput]:
            outputs = []
            async for output in llm.generate("The list", params, request_id="long"):
                outputs.append(output)
                begun.set()
            return outputs

        task = asyncio.create_task(ask())
        if kind is RequestOutputKind.FINAL_ONLY:
            while "long" not in llm._open:
                await asyncio.sleep(0)
        else:
            await begun.wait()
        await llm.abort(["nobody", "long"])
        last = (await task)[-1]
        assert last.finished
        assert [one.finish_reason for one in last.outputs] == ["abort", "abort"]
        await llm.abort("long")
        await _until_idle(llm)

    _run(work())


def test_errors_of_one_never_reach_another(llm: AsyncLLM, truth: list[RequestOutput]) -> None:
    async def bad(prompt: Any, params: SamplingParams | None = None) -> None:
        with pytest.raises(RequestError):
            async for _ in llm.generate(prompt, params):
                raise AssertionError("there is no answer")

    async def work() -> None:
        rules = _params(RequestOutputKind.CUMULATIVE)
        good = [_all(llm, number, rules[number]) for number in range(8)]
        named = SamplingParams(stop_token_ids=[10**6])
        prompts: list[Any] = [{"prompt_token_ids": [5] * 2000}, None, "", [10**6]]
        wrong = [bad(prompt) for prompt in prompts] + [bad("a", named)]
        answers: list[Any] = await asyncio.gather(*good, *wrong)
        for outputs, expected in zip(answers[:8], truth, strict=False):
            _same(outputs[-1], expected)
        await _until_idle(llm)

    _run(work())


def test_two_requests_have_two_names(llm: AsyncLLM) -> None:
    async def work() -> None:
        first = llm.generate("The list", _LONG, request_id="one")
        await anext(first)
        with pytest.raises(ValueError, match="'one' is under way already"):
            await anext(llm.generate("The list", _LONG, request_id="one"))
        await first.aclose()
        short = SamplingParams(max_tokens=2)
        names = [
            output.request_id
            for request_id in (None, None, "one")
            async for output in llm.generate("The", short, request_id)
        ]
        assert names[-1] == "one" and len(set(names)) == 3

    _run(work())


def test_its_tokenizer_can_be_had(llm: AsyncLLM) -> None:
    async def work() -> None:
        tokenizer = await llm.get_tokenizer()
        (output,) = [o async for o in llm.generate("The list", SamplingParams(max_tokens=1))]
        assert tokenizer.encode("The list") == output.prompt_token_ids

    _run(work())


def test_two_tiers_answer_alike_and_shutdown_leaves_nobody_waiting(
    truth: list[RequestOutput],
) -> None:
    places = {"tier2": "local:2", "worker_kv": "16MiB", "tier1_kv": "1MiB"}
    llm = AsyncLLM("demo", dtype="float32", **places)
    for outputs, expected in zip(
        _answer_all(llm, RequestOutputKind.CUMULATIVE), truth, strict=True
    ):
        _same(outputs[-1], expected)

    async def work() -> None:
        asked = llm.generate("The list type is", _LONG)
        await anext(asked)
        await asyncio.to_thread(llm.shutdown)
        with pytest.raises(UsageError, match="closed"):
            async for _ in asked:
                pass
        with pytest.raises(UsageError, match="shut down"):
            await anext(llm.generate("The list type is"))

    _run(work())


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(TypeError, match=r"^AsyncLLM\(\) got an unexpected .* 'max_num_seqs'"):
        AsyncLLM("demo", max_num_seqs=4)
