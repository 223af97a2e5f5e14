"""Benchmarks measure something: a roof first, and a JSON object with every figure last."""

import json

import pytest

from commands import glinthawk

ROWS = {
    "dense": {"model", "tokens", "threads", "ms", "linears_ms", "ratio", "tflops"},
    "tiers": {
        *("context", "kv_dtype", "single_same_core", "single_both_cores", "two_tier"),
        *("ratio_same_core", "ratio_both_cores", "tier1_busy", "tier2_busy"),
    },
    "job": {"layout", "requests", "tokens_per_s", "ratio", "tier1_busy"},
    "latency": {"batches", "tokens_per_s", "share"},
}


@pytest.mark.parametrize("bench", list(ROWS))
def test_a_quick_look_ends_with_its_figures(bench: str) -> None:
    done = glinthawk("bench", bench, "--quick", timeout=600)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "roof" in lines[0]
    summary = json.loads(lines[-1])
    assert summary["rows"]
    for row in summary["rows"]:
        assert row.keys() >= ROWS[bench]
        assert all(row[key] for key in ROWS[bench])
    links = summary["rows"] if bench == "latency" else summary.get("latency", [])
    batches = [link["batches"] for link in links]
    assert batches == sorted(set(batches)), "a longer link wants more batches"


def test_a_prediction_stands_beside_what_was_measured() -> None:
    done = glinthawk("bench", "prediction", "--quick", timeout=600)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert all(row["predicted"] > 0 and row["measured"] > 0 for row in summary["rows"])
    errors = [row["predicted"] / row["measured"] - 1 for row in summary["rows"]]
    assert [row["error"] for row in summary["rows"]] == pytest.approx(errors, abs=2e-3)
    assert summary["worst_error"] == max(abs(row["error"]) for row in summary["rows"])


def test_the_simulators_own_speed_is_measured() -> None:
    done = glinthawk("bench", "simulation", "--quick", timeout=100)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert row["tokens"] == 3 * 16 * 2 * 32
    assert row["simulated_tokens_per_s"] > 0
