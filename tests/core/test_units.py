"""Sizes: what people write is what they mean."""

import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glinthawk.core.errors import UsageError
from glinthawk.core.units import format_size, parse_size

QUIET = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("0", 0),
        ("17", 17),
        ("17B", 17),
        ("1KiB", 1024),
        ("1kb", 1000),
        ("2k", 2048),
        ("512MiB", 512 << 20),
        ("512MB", 512_000_000),
        ("3m", 3 << 20),
        ("4GiB", 4 << 30),
        (" 4 gib ", 4 << 30),
        ("2GB", 2_000_000_000),
        ("2G", 2 << 30),
        ("1.5GiB", 3 << 29),
        ("0.5k", 512),
        ("1TiB", 1 << 40),
        ("1tb", 10**12),
        (12345, 12345),
    ],
)
def test_sizes_are_read(text: str | int, num_bytes: int) -> None:
    assert parse_size(text) == num_bytes


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "GiB",
        "four",
        "4 GiBs",
        "4X",
        "-1",
        "-4GiB",
        "1e9",
        "1,5GiB",
        "4GiB4",
        "1.GiB",
        "٤x",
    ],
)
def test_anything_else_is_an_error_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="write it like 4GiB"):
        parse_size(text)


@QUIET
@given(st.text(max_size=8))
def test_no_text_raises_anything_but_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert parse_size(text) >= 0


@QUIET
@given(st.integers(0, 2**60))
def test_plain_numbers_are_bytes(num_bytes: int) -> None:
    assert parse_size(num_bytes) == num_bytes
    if num_bytes < 2**53:
        assert parse_size(str(num_bytes)) == num_bytes


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (4 << 30, "4.0 GiB"),
        (1 << 40, "1.0 TiB"),
        (5000 << 40, "5000.0 TiB"),
    ],
)
def test_sizes_are_written(num_bytes: int, text: str) -> None:
    assert format_size(num_bytes) == text


@QUIET
@given(st.integers(0, 2**50))
def test_what_is_written_reads_as_nearly_the_same(num_bytes: int) -> None:
    assert parse_size(format_size(num_bytes)) == pytest.approx(num_bytes, rel=0.06)
