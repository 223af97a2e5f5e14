"""Benchmarks measure something: a roof first, and a JSON object with every figure last.

``glinthawk bench`` has those for users, ``python -m bench`` those for who works on glinthawk.
What is measured depends on the machine and on what else it does; what is asserted does not.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.commands import bench as repository_benches
from commands import PATIENCE_S, call, glinthawk
from glinthawk.bench import transports
from glinthawk.bench.random_models import SHAPES
from glinthawk.scheduler.batch_limits import MOST_IN_FLIGHT

ROWS = {
    "dense": {"model", "tokens", "threads", "ms", "linears_ms", "ratio", "tflops"},
    "tiers": {
        *("context", "kv_dtype", "single_same_core", "single_both_cores", "two_tier"),
        *("ratio_same_core", "ratio_both_cores", "tier1_busy", "tier2_busy"),
    },
    "job": {"layout", "requests", "tokens_per_s", "ratio", "tier1_busy"},
    "latency": {"batches", "tokens_per_s", "share"},
    "sampler": {"rules", "dtype", "rows", "vocab", "threads", "ms", "softmax_ms", "ratio"},
    "structured": {"kind", "vocab", "rows", "ready_ms", "mask_us", "ms", "free_ms", "softmax_ms"},
    "quantized": {"kind", "rows", "ms", "bfloat16_ms", "ratio", "roof_ms", "share"},
    "scheduler": {
        "living",
        "submit_us",
        "admission_us",
        "stepped_us",
        "ended_us",
        "turnover_us",
        "record_us",
    },
    "link": {
        "transport",
        "connections",
        "gb_per_s",
        "share",
        "processor_s_per_gb",
        "round_trip_us",
    },
    "storage": {"model", "context", "gbps", "roof_gbps", "ratio"},
}


@pytest.fixture
def small_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is made and runs in no time, in place of those whose figures mean something."""
    size = {"hidden_size": 256, "num_hidden_layers": 2, "vocab_size": 2000}
    small = {**SHAPES["S"], **size, "intermediate_size": 512}
    for name in ("S", "M"):
        monkeypatch.setitem(SHAPES, name, small)
    monkeypatch.setitem(SHAPES, "O", {**SHAPES["P"], **size})


def repository_bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    root = Path(__file__).parents[2]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, cwd=root
    )


def check_figures(bench: str, said: str) -> None:
    lines = said.splitlines()
    assert "roof" in lines[0]
    summary = json.loads(lines[-1])
    assert summary["rows"]
    for row in summary["rows"]:
        assert row.keys() >= ROWS[bench]
        assert all(row[key] for key in ROWS[bench])
    check_links(summary["rows"] if bench == "latency" else summary.get("latency", []))


def check_links(links: list[dict]) -> None:
    """A link is as long as it should be at least, and a longer one has no fewer batches."""
    for link in links:
        assert link["round_trip_ms"] >= 2 * link["ms"]
        assert 2 <= link["batches"] <= MOST_IN_FLIGHT
    by_length = sorted(links, key=lambda link: link["round_trip_ms"])
    batches = [link["batches"] for link in by_length]
    assert batches == sorted(batches)


def test_a_quick_look_ends_with_its_figures() -> None:
    done = glinthawk("bench", "dense", "--quick")
    assert done.returncode == 0, done.stderr
    check_figures("dense", done.stdout)


@pytest.mark.parametrize("bench", ["tiers", "job"])
def test_two_tiers_end_with_their_figures(small_shapes: None, bench: str) -> None:
    done = call("bench", bench, "--quick", "--sampled")
    assert done.returncode == 0, done.stderr
    check_figures(bench, done.stdout)


def test_longer_links_end_with_their_figures(small_shapes: None) -> None:
    done = call("latency", "--quick", commands=repository_benches)
    assert done.returncode == 0, done.stderr
    check_figures("latency", done.stdout)


def test_transports_stand_beside_a_bare_socket() -> None:
    done = call("bench", "link", "--quick")
    assert done.returncode == 0, done.stderr
    check_figures("link", done.stdout)
    found = json.loads(done.stdout.splitlines()[-1])
    rows = found["rows"]
    assert rows[0]["share"] == 1.0
    assert [(row["transport"], row["connections"]) for row in rows] == [
        ("bare socket", 1),
        ("ipc", 1),
        *(("tcp+plain", count) for count in (1, 2)),
        *(("tcp", count) for count in (1, 2)),
        *(("sealed socket", count) for count in (1, 2)),
    ]
    roof = found["roof"]
    assert roof["plain"] == pytest.approx(found["cores"] / rows[0]["processor_s_per_gb"], rel=0.01)
    assert 0 < roof["encrypted"] < min(roof["plain"], found["cores"] * roof["sealing"])


def test_without_the_library_for_aes_the_rest_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transports, "has_aes", lambda: False)
    plan = transports.LinkPlan(16 << 20, 1, 1, (1,))
    said: list[str] = []
    rows = transports.measure_transports(plan, said.append)
    assert [row.transport for row in rows] == ["bare socket", "ipc", "tcp+plain", "tcp"]
    roof = transports.find_roof(2, rows)
    assert roof.keys() == {"plain", "copying"}
    assert "pip install cryptography" in transports.describe_roof(roof)


def test_kv_on_a_drive_stands_beside_the_drive(small_shapes: None, tmp_path: Path) -> None:
    done = call("storage", "--quick", "--dir", tmp_path, commands=repository_benches)
    assert done.returncode == 0, done.stderr
    check_figures("storage", done.stdout)
    summary = json.loads(done.stdout.splitlines()[-1])
    assert all(row["written"] <= 1.1 for row in summary["rows"])
    near, fetch, x_cache = summary["placements"]
    assert fetch["link_bytes"] / near["link_bytes"] == pytest.approx((1024 + 1) / 2, rel=0.06)
    assert x_cache["kv_bytes"] == pytest.approx(near["kv_bytes"] / 2, rel=0.06)
    assert summary["speedup_over_fetch"]["O"] > 0
    assert list(tmp_path.iterdir()) == []


def test_an_x_cache_stands_beside_its_roof(small_shapes: None) -> None:
    done = call("xcache", "--quick", commands=repository_benches)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert all(row["tflops"] > 0 and row["roof_tflops"] > 0 for row in summary["rebuilt"])
    without, half = summary["shares"]
    assert half["kv_bytes_peak"] == pytest.approx(without["kv_bytes_peak"] / 2, rel=0.06)
    assert half["x_bytes_peak"] > without["x_bytes_peak"] == 0


def test_a_long_prompt_goes_in_chunks_beside_short_ones(small_shapes: None) -> None:
    done = call("chunks", "--quick", commands=repository_benches)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    counts = {row["kind"]: row["count"] for row in summary["steps"]}
    assert counts["with a chunk"] == 1 + 8192 // 2048  # decode rows take some of each
    assert counts["decode rows alone"] > 0
    assert summary["memory"]["worker_peak"] > summary["memory"]["kv_peak"] > 0


def test_a_prediction_stands_beside_what_was_measured(small_shapes: None) -> None:
    done = call("prediction", "--quick", commands=repository_benches)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert all(row["predicted"] > 0 and row["measured"] > 0 for row in summary["rows"])
    ratios = [row["predicted"] / row["measured"] for row in summary["rows"]]
    errors = [row["error"] for row in summary["rows"]]
    # Of tokens a second that are rounded to a tenth.
    assert [1 + error for error in errors] == pytest.approx(ratios, rel=0.02, abs=1e-3)
    assert summary["worst_error"] == max(map(abs, errors))


def test_the_simulators_own_speed_is_measured() -> None:
    done = repository_bench("simulation", "--quick")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert row["tokens"] == 3 * 16 * 2 * 32
    assert row["simulated_tokens_per_s"] > 0


def test_converters_are_measured(tmp_path: Path) -> None:
    done = repository_bench("files", "--lines", "400", "--dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert {row["lines"] for row in rows} == {200, 400}
    assert all(row["lines_per_s"] > 0 and row["peak"] > 0 for row in rows)
    assert not list(tmp_path.iterdir())


def test_the_schedulers_events_are_measured() -> None:
    done = repository_bench("scheduler", "--quick", "--most", "16")
    assert done.returncode == 0, done.stderr
    check_figures("scheduler", done.stdout)
    (row,) = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert row["living"] == 16


def test_the_sampler_stands_beside_a_softmax() -> None:
    done = call("sampler", "--quick", commands=repository_benches)
    assert done.returncode == 0, done.stderr
    check_figures("sampler", done.stdout)


def test_quantised_products_stand_beside_those_in_bfloat16() -> None:
    done = call("quantized", "--quick", commands=repository_benches)
    assert done.returncode == 0, done.stderr
    check_figures("quantized", done.stdout)


def test_what_constraints_add_is_measured() -> None:
    done = call("structured", "--quick", commands=repository_benches)
    assert done.returncode == 0, done.stderr
    check_figures("structured", done.stdout)


def test_the_memory_of_a_line_is_measured(tmp_path: Path) -> None:
    done = repository_bench("lines", "--lines", "3000", "--dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("roof: 16 bytes")
    begun, resumed = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert (begun["lines"], resumed["lines"]) == (1500, 1500)
    for row in (begun, resumed):
        assert row["peak"] >= row["before"] > 0
        assert row["lines_per_s"] > 0
    assert list(tmp_path.iterdir()) == []


def test_short_answers_say_where_time_goes_with_and_without_processes() -> None:
    done = call("short", "--requests", 40, commands=repository_benches)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert [row["text_processes"] for row in figures["rows"]] == [0, 1]
    assert all(row["requests_per_s"] > 0 for row in figures["rows"])
    assert figures["ceilings"].keys() == {"tier 1", "reading", "writing"}
    assert all(taken >= 0 for taken in figures["parts_us"].values())
