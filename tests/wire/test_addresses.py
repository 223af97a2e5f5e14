"""Addresses: three forms, and an error that shows them for everything else."""

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from glinthawk.core.errors import AddressError
from glinthawk.wire.address import Address

QUIET = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
KEY = "0123456789abcdef" * 4


@pytest.mark.parametrize("text", ["inproc://worker-1", "ipc:///tmp/a/b.sock", "ipc://b.sock"])
def test_local_addresses_are_taken_as_they_are(text: str) -> None:
    address = Address.parse(text)
    assert address == Address(text.split(":")[0], text)
    assert address.key is None
    assert address.is_loopback


@pytest.mark.parametrize(
    ("text", "endpoint", "host"),
    [
        ("tcp://127.0.0.1:7001", "tcp://127.0.0.1:7001", "127.0.0.1"),
        ("tcp://worker.example:1", "tcp://worker.example:1", "worker.example"),
        ("tcp://*:7001", "tcp://*:7001", "*"),
        ("tcp://127.0.0.1:0", "tcp://127.0.0.1:0", "127.0.0.1"),
        ("tcp://[::1]:65535", "tcp://[::1]:65535", "::1"),
    ],
)
def test_tcp_addresses_have_a_host_and_a_port(text: str, endpoint: str, host: str) -> None:
    assert Address.parse(text) == Address("tcp", endpoint, host, None)


def test_the_key_goes_with_the_address_but_not_to_the_endpoint() -> None:
    address = Address.parse(f"tcp://10.0.0.7:7001?key={KEY}")
    assert address == Address("tcp", "tcp://10.0.0.7:7001", "10.0.0.7", KEY)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7001",
        "local:2",
        "localhost:7001",
        "http://a:1",
        "udp://a:1",
        "ipc://",
        "inproc://",
        "/tmp/worker.sock",
        "tcp",
        "tcp://",
        "tcp://host",
        "tcp://host:",
        "tcp://:7001",
        "tcp://host:port",
        "tcp://host:65536",
        "tcp://host:-1",
        "tcp://host:1/",
        "tcp://host:1/path",
        "tcp://host:1?keys=1",
        f"tcp://host:1?key={KEY}&allow=1",
        "tcp://[::1",
        "tcp://[not-an-address]:1",
    ],
)
def test_anything_else_is_an_error_that_shows_the_forms(text: str) -> None:
    with pytest.raises(AddressError, match=r"tcp://host:port"):
        Address.parse(text)


@pytest.mark.parametrize("key", ["", "ab", KEY[:-1], KEY + "0", KEY.upper(), "g" * 64, "%20" * 64])
def test_a_key_that_is_none_is_an_error_that_says_where_to_get_one(key: str) -> None:
    with pytest.raises(AddressError, match="keygen"):
        Address.parse(f"tcp://host:1?key={key}")


@QUIET
@given(st.text())
@example("[")
def test_no_text_raises_anything_but_an_address_error(text: str) -> None:
    for prefix in ("", "tcp://", "tcp://[", "tcp://host:1?key="):
        try:
            address = Address.parse(prefix + text)
        except AddressError:
            continue
        assert address.scheme in ("inproc", "ipc", "tcp")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("localhost", True),
        ("[::1]", True),
        ("*", False),
        ("0.0.0.0", False),
        ("[::]", False),
        ("10.0.0.1", False),
        ("eth0", False),
        ("localhost.example", False),
    ],
)
def test_loopback_is_what_only_this_machine_reaches(host: str, loopback: bool) -> None:
    assert Address.parse(f"tcp://{host}:7001").is_loopback is loopback
