"""What measures the server: every request is answered, by an engine that takes no time."""

from bench.serving import measure_serving


def test_many_connections_are_answered_without_an_error() -> None:
    row = measure_serving(200, 64)
    assert (row.requests, row.errors) == (200, 0)
    assert 0 < row.p50_ms <= row.p99_ms and row.cpu_ms > 0
