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
