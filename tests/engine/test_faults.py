"""Workers that die in the middle of a run: nothing is lost while a home is left."""

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from families import make_model
from glinthawk.core.batch import Batch
from glinthawk.core.config import EngineConfig, SplitAttention
from glinthawk.core.errors import WorkerLost
from glinthawk.core.pooling import Pooling
from glinthawk.engine.run import Run, open_run
from interrupted_runs import answer, config, requests
from zygote import children


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture(scope="module")
def undisturbed(model: Path) -> dict[int, list[int]]:
    """Without workers: every layout answers alike (tests/equivalence)."""
    with open_run(EngineConfig(model=str(model), tier1_kv="4MiB", batch_size=4)) as run:
        return answer(run)


def die_and_come_back(run: Run, undisturbed: dict[int, list[int]]) -> None:
    """The youngest worker is killed in mid-run. All is answered, until another process serves in
    its place: where nobody needed it, its death may be noticed late."""
    num_homes, before = len(run.engine.scheduler.homes), set(children())
    assert answer(run, kill_after=3) == undisturbed
    while len(run.engine.scheduler.homes) < num_homes or before.issuperset(children()):
        assert answer(run) == undisturbed


def test_a_killed_worker_costs_no_answer_and_comes_back(
    model: Path, undisturbed: dict[int, list[int]]
) -> None:
    with open_run(config(model, "local:2")) as run:
        die_and_come_back(run, undisturbed)
    assert sorted(undisturbed) == list(range(24))


def test_a_worker_that_is_killed_while_its_kv_is_fetched_neither(
    model: Path, undisturbed: dict[int, list[int]]
) -> None:
    with open_run(replace(config(model, "local:2"), kv_placement="fetch")) as run:
        die_and_come_back(run, undisturbed)


def _kill_amid_chunks(run: Run, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sequence of which a chunk was just under way, once there was one."""
    killed: list[int] = []
    start, workers = run.tier1.start, children()[-2:]

    def start_and_kill(batch: Batch) -> None:
        start(batch)
        chunks = [span for span in batch.spans if span.start and not span.num_sampled]
        if chunks and not killed:
            killed.append(chunks[0].sequence.id)
            os.kill(workers[chunks[0].home - 1], signal.SIGKILL)

    monkeypatch.setattr(run.tier1, "start", start_and_kill)
    return killed


def test_a_worker_that_dies_amid_the_chunks_of_a_prompt_neither(
    model: Path, undisturbed: dict[int, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_run(replace(config(model, "local:2"), batch_tokens=5)) as run:
        killed = _kill_amid_chunks(run, monkeypatch)
        assert answer(run) == undisturbed
        assert run.engine.scheduler.counts.repeated_tokens > 0
    assert killed


def _scores(run: Run) -> dict[int, list[float]]:
    """Log-probabilities of prompts' tokens."""
    scored = [
        replace(one, params=replace(one.params, prompt_logprobs=0), max_tokens=1 + one.id % 3)
        for one in requests(24)
    ]
    return {
        sequence.request.id: [score.logprob for part in sequence.scores for score in part]
        for sequence in run.engine.generate(scored)
    }


def _vectors(run: Run) -> dict[int, list[float]]:
    """What is added up of prompts' hidden states, in each way."""
    kinds = (Pooling("mean"), Pooling("last"), Pooling("first"), Pooling("last", (5, 9)))
    pooled = [
        replace(one, max_tokens=0, pooling=kinds[one.id % len(kinds)]) for one in requests(24)
    ]
    return {
        sequence.request.id: list(sequence.pooled or ()) for sequence in run.engine.generate(pooled)
    }


def test_it_costs_no_hidden_state_and_adds_none_twice(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_run(EngineConfig(model=str(model), tier1_kv="4MiB")) as run:
        expected = _vectors(run)
    with open_run(replace(config(model, "local:2"), batch_tokens=5)) as run:
        killed = _kill_amid_chunks(run, monkeypatch)
        found = _vectors(run)
        assert run.engine.scheduler.counts.repeated_tokens > 0
    assert killed
    assert found.keys() == expected.keys()
    for number, vector in expected.items():
        assert found[number] == pytest.approx(vector, rel=1e-3, abs=1e-3)


def test_it_costs_no_score_and_makes_none_twice(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_run(EngineConfig(model=str(model), tier1_kv="4MiB")) as run:
        expected = _scores(run)
    with open_run(replace(config(model, "local:2"), batch_tokens=5)) as run:
        killed = _kill_amid_chunks(run, monkeypatch)
        found = _scores(run)
    assert killed
    assert {number: len(scores) for number, scores in found.items()} == {
        request.id: len(request.prompt) - 1 for request in requests(24)
    }
    for number, scores in expected.items():
        assert found[number] == pytest.approx(scores, abs=1e-4)


def test_beside_kv_on_tier_1_neither(model: Path, undisturbed: dict[int, list[int]]) -> None:
    with open_run(config(model, "local:2", "100KiB")) as run:
        assert answer(run, kill_after=3) == undisturbed


def test_a_worker_that_dies_after_the_last_answer_costs_only_its_count(model: Path) -> None:
    with open_run(config(model, "local:2")) as run:
        assert len(answer(run)) == 24
        os.kill(max(children()), signal.SIGKILL)
        assert 1 <= len(run.stats().tier2_busy) <= 2


def test_without_a_home_left_the_job_waits_for_one(
    model: Path, undisturbed: dict[int, list[int]]
) -> None:
    with open_run(config(model, "local:1")) as run:
        assert answer(run, kill_after=2) == undisturbed


def test_when_none_comes_back_the_run_stops_and_says_so(model: Path, tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/worker"
    command = [sys.executable, "-m", "glinthawk", "worker", "--listen", address, "--kv", "4MiB"]
    worker = subprocess.Popen([*command, "--threads", "1"], stdout=subprocess.PIPE)
    settings = replace(config(model, address), wait_for_workers=0.5)
    assert worker.stdout is not None
    try:
        assert worker.stdout.readline()  # it listens
        with open_run(settings) as run, pytest.raises(WorkerLost, match="no worker has come back"):
            answer(run, kill_after=2)
    finally:
        worker.kill()
        worker.communicate()


def answer_while_one_is_stopped(run: Run) -> dict[int, list[int]]:
    """All answers; after three, the youngest child is stopped, and goes on once it is given up."""
    answers, pid = {}, max(children())
    stopped = False
    for sequence in run.engine.generate(requests(24)):
        answers[sequence.request.id] = sequence.output
        run.engine.scheduler.validate()
        if len(answers) == 3:
            os.kill(pid, signal.SIGSTOP)
            stopped = True
        if stopped and len(run.engine.scheduler.homes) == 1:
            os.kill(pid, signal.SIGCONT)
            stopped = False
    os.kill(pid, signal.SIGCONT)
    return answers


def test_a_worker_that_is_silent_too_long_is_given_up_and_disturbs_nothing_later(
    model: Path, undisturbed: dict[int, list[int]]
) -> None:
    with open_run(replace(config(model, "local:2"), worker_timeout=4.0)) as run:
        assert answer_while_one_is_stopped(run) == undisturbed
        while len(run.engine.scheduler.homes) < 2:  # once it is awake, it comes back
            assert answer(run) == undisturbed


def test_a_worker_that_is_silent_for_a_while_costs_nothing_but_time(
    model: Path, undisturbed: dict[int, list[int]]
) -> None:
    with open_run(config(model, "local:2")) as run:
        pid = max(children())
        again = {}
        for sequence in run.engine.generate(requests(24)):
            again[sequence.request.id] = sequence.output
            if len(again) == 3:
                os.kill(pid, signal.SIGSTOP)
                wake = threading.Timer(2.0, os.kill, (pid, signal.SIGCONT))
                wake.start()
        wake.join()
        assert again == undisturbed
        assert len(run.engine.scheduler.homes) == 2


@pytest.mark.parametrize("tier1_kv", ["0", "100KiB"])
def test_a_worker_takes_along_what_tier_1_keeps_of_its_sequences(
    model: Path, tier1_kv: str
) -> None:
    """X of its sequences goes with it, and the home comes back with an empty X-cache."""
    with open_run(config(model, "local:2")) as run:
        undisturbed = answer(run)
    settings = replace(config(model, "local:2", tier1_kv), xcache=0.5)
    with open_run(settings) as run:
        die_and_come_back(run, undisturbed)
        assert answer(run) == undisturbed
        # Beside Tier 1's own memory a worker is used only where that pays here and now.
        assert run.stats().xcache_bytes_peak > 0 or tier1_kv != "0"


@pytest.mark.parametrize("split", ["heads", "tokens"])
@pytest.mark.parametrize("tier1_kv", ["0", "100KiB"])
def test_a_worker_that_shares_sequences_takes_all_of_them_along(
    model: Path, undisturbed: dict[int, list[int]], split: SplitAttention, tier1_kv: str
) -> None:
    """And all workers together come back as the home that they were."""
    with open_run(config(model, "local:2", tier1_kv, split)) as run:
        homes = run.engine.scheduler.homes
        assert homes == ([1] if tier1_kv == "0" else [0, 1])
        die_and_come_back(run, undisturbed)
        assert len(run.stats().tier2_busy) == 2


@pytest.mark.parametrize("places", [[0], [1], [0, 1]], ids=["first", "last", "both"])
def test_killed_nodes_come_back(
    model: Path, undisturbed: dict[int, list[int]], tmp_path: Path, places: list[int]
) -> None:
    cluster = tmp_path / "cluster.toml"
    cluster.write_text('[[nodes]]\ntier1_kv = "1MiB"\n' * 2)
    config = EngineConfig(model=str(model), cluster=str(cluster), batch_size=4)
    before = set(children())
    with open_run(replace(config, wait_for_workers=300)) as run:
        nodes = sorted({*children()} - before)
        assert len(nodes) == 2
        victims = [nodes[place] for place in places]
        assert answer(run, kill_after=3, victims=victims) == undisturbed
        assert not {*victims} & {*children()}
