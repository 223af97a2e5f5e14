"""``plan``, ``simulate``, ``profile`` and ``run --plan`` as people call them."""

import json
import sys
from pathlib import Path

import pytest

from commands import EXAMPLES, call, examples, glinthawk, results
from glinthawk.cli.planned import follow
from glinthawk.core.errors import UsageError
from glinthawk.core.plan import Plan
from glinthawk.planner.profile import Profile
from plans import make_plan

GIB = 1 << 30
MACHINES = ["--tier1", "A10", "--tier1-count", "2", "--tier2", "r7a-4xlarge", "--tier2-count", "4"]
PLAN = ["plan", "-m", "Llama-3.1-8B", "--workload", "128:32", "--kv-dtype", "auto", "--top", "2"]


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    folder = tmp_path_factory.mktemp("plan")
    out, report = folder / "plan.json", folder / "report.html"
    done = glinthawk(*PLAN, *MACHINES, "--out", out, "--report", report)
    assert done.returncode == 0, done.stderr
    return done.stdout, out, report


def test_plan_prints_layouts_and_writes_the_best(planned: tuple[str, Path, Path]) -> None:
    text, out, report = planned
    assert "not measured: from the catalogue" in text
    assert "x A10" in text
    assert "times cheaper" in text
    best = Plan.load(out)
    assert best.model == "Llama-3.1-8B"
    first = text.splitlines()[2].split()
    assert {str(best.batch_size), str(best.batches_in_flight), best.kv_dtype} <= set(first)
    assert "prefers-color-scheme" in report.read_text()


def test_a_report_without_its_library_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = call("plan", "-m", "no-model", "--workload", "nonsense", "--report", tmp_path / "page")
    assert done.returncode == 2
    assert "pip install 'glinthawk[plots]'" in done.stderr
    assert done.stdout == ""


def test_a_plan_is_simulated_and_traced(planned: tuple[str, Path, Path], tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    arguments = ["simulate", "--plan", planned[1], "--workload", "128:32", "--requests", 200]
    done = glinthawk(*arguments, "--trace", trace)
    assert done.returncode == 0, done.stderr
    assert "200 requests, 25600 prompt tokens, 6400 generated" in done.stdout
    assert "tier 1: busy" in done.stdout
    events = json.loads(trace.read_text())
    spans = [event for event in events if event["ph"] == "X"]
    assert min(event["ts"] for event in spans) == 0
    assert {event["args"]["name"] for event in events if event["ph"] == "M"} >= {"tier 1, slice 0"}


def test_a_slow_worker_and_a_long_link_cost_time(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "plan.json", model="Llama-3.1-8B", kv_dtype="bfloat16")
    plan = make_plan(plan, model="Llama-3.1-8B", kv_dtype="bfloat16", worker_kv=8 << 30)
    arguments = ["simulate", "--plan", plan, "--workload", "64:16", "--requests", 64]
    arguments += ["--tier1", "A10", "--tier2", "rome-16"]

    def seconds(*more: object) -> float:
        done = call(*arguments, *more)
        assert done.returncode == 0, done.stderr
        return float(done.stdout.split(" generated in ")[1].split(" s:")[0].replace(",", ""))

    alone = seconds()
    assert seconds("--slow", "2:500") > 1.5 * alone
    assert seconds("--latency", "20") > 1.5 * alone


def test_run_follows_a_plan_and_answers_alike(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "plan.json")
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    source, stats = examples(tmp_path / "in.jsonl", 24), tmp_path / "stats.json"
    arguments = ["run", "-m", "demo", "-i", source, "--dtype", "float32"]
    done = call(*arguments, "-o", one, "--plan", plan, "--stats-json", stats)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(stats.read_text())["tier2_busy"]) == 2
    assert call(*arguments, "-o", two).returncode == 0
    assert results(one) == results(two)


def test_flags_win_over_the_plan(tmp_path: Path) -> None:
    plan, stats = make_plan(tmp_path / "plan.json"), tmp_path / "stats.json"
    source = examples(tmp_path / "in.jsonl", 6)
    arguments = ["run", "-m", "demo", "-i", source, "-o", tmp_path / "out.jsonl"]
    arguments += ["--plan", plan, "--tier2", "local:1", "--kv-dtype", "int8"]
    done = call(*arguments, "--stats-json", stats)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(stats.read_text())["tier2_busy"]) == 1


def test_a_profile_is_measured_and_planned_with(tmp_path: Path) -> None:
    profile, plan = tmp_path / "profile.json", tmp_path / "plan.json"
    done = glinthawk("profile", "-m", "demo", "--quick", "-o", profile)
    assert done.returncode == 0, done.stderr
    assert set(Profile.load(profile).far) == {"float32"}
    arguments = ["--profile", profile, "--workload", "64:16"]
    done = call("plan", "-m", "demo", *arguments, "--memory", "64MiB", "--out", plan)
    assert done.returncode == 0, done.stderr
    assert "measured on" in done.stdout
    best = Plan.load(plan)
    assert best.tier1_kv + best.worker_kv <= 64 << 20
    done = call("simulate", "--plan", plan, *arguments, "--requests", 50)
    assert done.returncode == 0, done.stderr
    source, output = examples(tmp_path / "in.jsonl", 12), tmp_path / "out.jsonl"
    done = call("run", "-m", "demo", "-i", source, "-o", output, "--plan", plan)
    assert done.returncode == 0, done.stderr
    assert len(results(output)) == 12
    done = call("plan", "-m", "demo", *arguments, "--kv-dtype", "int8")
    assert done.returncode == 2
    assert "glinthawk profile --kv-dtype int8" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*PLAN, "--tier1", "T5"], "the catalogue has no machine 'T5'"),
        (PLAN, "--tier1"),
        ([*PLAN, "--tier1", "zen4-2"], "--rank speed"),
        ([*PLAN, "--tier1", "T4", "--kv-dtype", "int4"], "--kv-dtype must be one of"),
        ([*PLAN, "--tier1", "T4", "--tier1-count", "1"], "--tier1-count"),
        ([*PLAN, "--tier1", "T4", "--profile", "p.json"], "leave --tier1"),
        (["plan", "-m", "Lama-8B", "--workload", "1:1", "--tier1", "T4"], "there is no shape"),
        (["plan", "-m", "OPT-30B", "--workload", "9:x", "--tier1", "T4"], "is no workload"),
        (["plan", "-m", "OPT-30B", "--workload", "2000:99", "--tier1", "T4"], "2099 tokens"),
        (["simulate", "--plan", "none.json", "--workload", "9:9"], "cannot read the plan"),
        ([*PLAN, "--tier1", "T4", "--storage", "1TiB"], "--storage goes with --profile"),
        (["profile", "-m", "demo", "-o", "p", "--tier2", "local:2"], "--tier2 local:1"),
        (["profile", "-m", "demo", "-o", "p", "--storage", "none"], "give a folder"),
    ],
)
def test_bad_input_names_the_next_step(arguments: list[object], words: str) -> None:
    done = call(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cluster_file_with_the_plans_numbers_is_taken(tmp_path: Path) -> None:
    cluster, output = tmp_path / "cluster.toml", tmp_path / "out.jsonl"
    cluster.write_text('[[nodes]]\nworkers = ["local:1"]\n' * 2)
    plan = make_plan(tmp_path / "plan.json", slices=2, workers_per_slice=1)
    source = examples(tmp_path / "in.jsonl", 6)
    arguments = ["-m", "demo", "-i", source, "-o", output, "--cluster", cluster]
    done = call("run", *arguments, "--plan", plan)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("settings", "more", "words"),
    [
        ({"model": "Llama-2-7B"}, [], "glinthawk plan -m demo --out"),
        ({"slices": 2}, [], "--cluster FILE"),
        ({"slices": 2}, ["--cluster", "cluster.toml"], "2 slices"),
        ({}, ["--cluster", "cluster.toml"], "2 workers for each slice, not 1"),
        ({"worker_storage": 3 << 30}, [], "--worker-storage DIR:SIZE (sizes together 3.0GiB)"),
    ],
)
def test_a_plan_for_something_else_is_refused(
    settings: dict[str, object], more: list[str], words: str, tmp_path: Path
) -> None:
    plan, cluster = make_plan(tmp_path / "plan.json", **settings), tmp_path / "cluster.toml"
    cluster.write_text('[[nodes]]\nworkers = ["local:1"]\n')
    more = [str(cluster) if one == "cluster.toml" else one for one in more]
    output = tmp_path / "out.jsonl"
    done = call("run", "-m", "demo", "-i", EXAMPLES, "-o", output, "--plan", plan, *more)
    assert done.returncode == 2
    assert words in done.stderr
    assert not output.exists()


def test_a_plan_with_drives_is_followed(tmp_path: Path) -> None:
    plan = Plan.load(make_plan(tmp_path / "plan.json", worker_storage=GIB, xcache=0.25))
    settings = {"model": "demo", "cluster": None, "tier2": ()}
    followed = follow(plan, settings, {"worker_storage"})
    assert (followed["xcache"], followed["tier2"]) == (0.25, ("local:2",))
    # Its folders come from the flag; workers elsewhere have been told theirs.
    assert "worker_storage" not in followed
    settings["tier2"] = (f"tcp://worker:7001?key={64 * '0'}",)
    assert follow(plan, settings, {"tier2"})["xcache"] == 0.25
    assert follow(plan, settings, {"tier2", "xcache"}).keys().isdisjoint({"xcache"})
    with pytest.raises(UsageError, match="--worker-storage"):
        follow(plan, settings | {"cluster": "ray"}, set())


def test_simulate_needs_drives_where_the_plan_has_them(tmp_path: Path) -> None:
    plan = make_plan(
        tmp_path / "plan.json",
        model="Llama-2-7B",
        kv_dtype="float16",
        worker_kv=GIB,
        worker_storage=1000 * GIB,
        batch_size=40,
    )
    arguments = ["simulate", "--plan", plan, "--workload", "400:8", "--tier1", "A10"]
    arguments += ["--requests", 80]
    done = call(*arguments, "--tier2", "r7a-4xlarge")
    assert done.returncode == 2
    assert "a machine with more storage" in done.stderr
    done = call(*arguments, "--tier2", "L80as_v3")
    assert done.returncode == 0, done.stderr
    assert "drives: busy" in done.stdout


def test_simulate_asks_for_machines(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "plan.json")
    done = call("simulate", "--plan", plan, "--workload", "8:8")
    assert done.returncode == 2
    assert "--tier1" in done.stderr
    arguments = ["--tier1", "T4", "--tier2", "rome-16", "--slow", "3:2"]
    done = call("simulate", "--plan", plan, "--workload", "8:8", *arguments)
    assert done.returncode == 2
    assert "workers are 1 to 2" in done.stderr
