"""A call that is left at any point, in any way, spoils no later one."""

import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import glinthawk
from families import make_model
from glinthawk import LLM
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import UsageError
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.engine.run import Run, open_run

_SOURCES = str(Path(glinthawk.__file__).parent)
#: Longer than these runs, so that a number of lines is anywhere in them.
_MOST_LINES = 12_000

LAYOUTS: dict[str, dict[str, Any]] = {
    "one tier": {"tier1_kv": "128KiB"},
    "workers": {"tier2": ("local:2",), "worker_kv": "128KiB"},
    "hybrid": {"tier2": ("local:1",), "tier1_kv": "48KiB", "worker_kv": "1MiB"},
    "heads": {"tier2": ("local:2",), "split_attention": "heads"},
    "tokens": {"tier2": ("local:2",), "split_attention": "tokens"},
    "x-cache": {"tier2": ("local:2",), "worker_kv": "1MiB", "xcache": 0.5},
    "fetch": {"tier2": ("local:2",), "worker_kv": "1MiB", "kv_placement": "fetch"},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture(scope="module")
def expected(model: Path) -> dict[int, list[int]]:
    with open_run(EngineConfig(model=str(model), tier1_kv="4MiB")) as run:
        return _answer(run)


def _requests(first: int = 3) -> list[Request]:
    """The numbers are the same whatever the prompts are."""
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    common = tuple(range(40, 80))
    prompts = [(*common[: 20 * (i % 3)], *range(first + i, first + 6 + 2 * i)) for i in range(10)]
    return [Request(i, prompt, params, 0, 12 - i % 4) for i, prompt in enumerate(prompts)]


def _answer(run: Run) -> dict[int, list[int]]:
    answers = {s.request.id: s.output for s in run.engine.generate(_requests())}
    run.engine.scheduler.validate()
    assert not run.engine.scheduler.num_living
    return answers


@contextmanager
def _interrupt_at(line: int) -> Iterator[None]:
    """Ctrl-C before the so-manieth line of this package that runs."""
    left = line

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(_SOURCES):
            return None
        left -= event == "line"
        if left == 0:
            raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(None)


def _by_a_signal(run: Run, chance: random.Random) -> None:
    try:
        with _interrupt_at(chance.randrange(1, _MOST_LINES)):
            for _ in run.engine.generate(_requests(first=90)):
                pass
    except KeyboardInterrupt:
        pass


def _by_the_caller(run: Run, chance: random.Random) -> None:
    stop = chance.randrange(1, 60)

    def after_step() -> None:
        nonlocal stop
        stop -= 1
        if not stop:
            raise ZeroDivisionError

    try:
        for _ in run.engine.generate(_requests(first=90), after_step=after_step):
            pass
    except ZeroDivisionError:
        pass


def _by_closing(run: Run, chance: random.Random) -> None:
    answers = run.engine.generate(_requests(first=90))
    for _ in range(chance.randrange(1, 9)):
        next(answers)
    answers.close()


def _by_another_call(run: Run, _: random.Random) -> None:
    earlier, forgotten = (run.engine.generate(_requests(first=90)) for _ in range(2))
    next(earlier)
    next(forgotten)
    later = run.engine.generate(_requests(first=70))
    next(later)
    with pytest.raises(UsageError, match="another call of generate"):
        next(earlier)
    forgotten.close()
    assert len(list(later)) == 9


_WAYS: list[Callable[[Run, random.Random], None]] = [
    _by_a_signal,
    _by_the_caller,
    _by_closing,
    _by_another_call,
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_next_call_is_right(model: Path, expected: dict[int, Any], layout: str) -> None:
    chance = random.Random(layout)
    with open_run(EngineConfig(model=str(model), batch_size=4, **LAYOUTS[layout])) as run:
        for leave in [*_WAYS, *[_by_a_signal] * 4]:
            leave(run, chance)
            run.engine.scheduler.validate()
            assert run.engine.scheduler.is_idle
            assert _answer(run) == expected, leave


def test_with_kv_on_drives(model: Path, expected: dict[int, Any], tmp_path: Path) -> None:
    config = EngineConfig(
        model=str(model),
        batch_size=4,
        tier2=("local:1",),
        worker_kv="1MiB",
        worker_storage=(f"{tmp_path}:16MiB",),
    )
    with open_run(config) as run:
        for leave in (_by_closing, _by_a_signal, _by_a_signal):
            leave(run, random.Random(3))
            assert _answer(run) == expected, leave


def test_in_a_pipeline(model: Path, expected: dict[int, Any], tmp_path: Path) -> None:
    cluster = tmp_path / "cluster.toml"
    cluster.write_text('[[nodes]]\nworkers = ["local:1"]\nworker_kv = "1MiB"\n' * 2)
    config = EngineConfig(model=str(model), cluster=str(cluster), batch_size=4)
    with open_run(config) as run:
        for leave in (_by_closing, _by_a_signal):
            leave(run, random.Random(7))
            assert _answer(run) == expected, leave


def test_an_interrupt_within_the_model(model: Path, expected: dict[int, Any]) -> None:
    """Where the forward pass is, in a greenlet of its own."""
    with LLM(str(model), tier1_kv="128KiB", batch_size=4) as llm:
        layer = llm._model.run.tier1.node._passes.args[0].model.layers[1]  # type: ignore[attr-defined]
        passed: list[int] = []

        def interrupt(*_: Any) -> None:
            passed.append(1)
            if len(passed) == 7:
                raise KeyboardInterrupt

        hook = layer.register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            list(llm._model.run.engine.generate(_requests(first=90)))
        hook.remove()
        assert _answer(llm._model.run) == expected


_SCRIPT = """
import json, signal, sys
from glinthawk import LLM, SamplingParams

# A job in the background begins with Ctrl-C ignored, and so do its children; a notebook does not.
signal.signal(signal.SIGINT, signal.default_int_handler)
asked = SamplingParams(temperature=0, max_tokens=40)
with LLM("demo", tier2="local:1", worker_kv="64MiB", batch_size=4) as llm:
    before = [o.outputs[0].token_ids for o in llm.generate(["The list", "Return"] * 4, asked)]
    try:
        print("ready", flush=True)
        llm.generate(["An exception"] * 4000, SamplingParams(max_tokens=400))
    except KeyboardInterrupt:
        after = [o.outputs[0].token_ids for o in llm.generate(["The list", "Return"] * 4, asked)]
        print(json.dumps(before == after), flush=True)
"""


def test_ctrl_c_in_a_notebook() -> None:
    """A process that catches it and asks again."""
    with subprocess.Popen(
        [sys.executable, "-c", _SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=600)
    assert said == "true\n", errors
