"""Addresses: four forms, and an error that shows them for everything else."""

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
        "tcp://user@host:1",
        f"tcp://host:1?key={KEY}#1",
        "tcp://host:1?password=hunter2",
        "tcp+plain://host",
        "tcp+plain://host:1/path",
        f"tcp+plain://host:1?key={KEY}",
        "tcp+plain://host:1?password=hunter2&key=1",
        "tcp+plain://host:1?password=hunter2#2",
        "tcp+plain://user:hunter2@host:1",
    ],
)
def test_anything_else_is_an_error_that_shows_the_forms(text: str) -> None:
    with pytest.raises(AddressError, match=r"tcp://host:port"):
        Address.parse(text)


@pytest.mark.parametrize("key", ["", "ab", KEY[:-1], KEY + "0", KEY.upper(), "g" * 64, "%20" * 64])
def test_a_key_that_is_none_is_an_error_that_says_where_to_get_one(key: str) -> None:
    with pytest.raises(AddressError, match="keygen"):
        Address.parse(f"tcp://host:1?key={key}")


@pytest.mark.parametrize(
    ("written", "password"),
    [
        ("hunter2", "hunter2"),
        ("a+b", "a+b"),
        ("a%20b%26c%23%25", "a b&c#%"),
        ("p%C3%A4ss", "p\N{LATIN SMALL LETTER A WITH DIAERESIS}ss"),
        ("x" * 255, "x" * 255),
    ],
)
def test_a_password_makes_a_link_without_encryption(written: str, password: str) -> None:
    address = Address.parse(f"tcp+plain://10.0.0.7:7001?password={written}")
    assert address.scheme == "tcp+plain"
    assert address.endpoint == "tcp://10.0.0.7:7001"
    assert address.password == password
    assert password not in repr(address)


def test_a_place_to_listen_has_no_password() -> None:
    assert Address.parse("tcp+plain://*:7001") == Address("tcp+plain", "tcp://*:7001", "*")


@pytest.mark.parametrize("password", ["", "x" * 256, "%C3%A4" * 128, "a%00b", "a%0Ab", "%1B[2J"])
def test_a_password_that_cannot_be_is_an_error_that_does_not_show_it(password: str) -> None:
    with pytest.raises(AddressError, match="1 to 255 bytes") as caught:
        Address.parse(f"tcp+plain://host:1?password={password}")
    assert not password or password not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "tcp+plain://host?password=hunter2",
        "tcp+plain://[::1?password=hunter2",
        "tcp-plain://host:1?password=hunter2",
        "tcp://host:1?password=hunter2",
        "tcp+plain://host:1?pasword=hunter2",
        "tcp+plain://host:1?password=hunter2#",
        "tcp+plain://host:1/?password=hunter2",
    ],
)
def test_no_error_shows_a_password(text: str) -> None:
    try:
        assert "hunter2" not in repr(Address.parse(text))
    except AddressError as error:
        assert "hunter2" not in str(error)


@QUIET
@given(st.text())
@example("[")
def test_no_text_raises_anything_but_an_address_error(text: str) -> None:
    for prefix in ("", "tcp://", "tcp://[", "tcp://host:1?key=", "tcp+plain://host:1?password="):
        try:
            address = Address.parse(prefix + text)
        except AddressError:
            continue
        assert address.scheme in ("inproc", "ipc", "tcp", "tcp+plain")


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
@pytest.mark.parametrize("scheme", ["tcp", "tcp+plain"])
def test_loopback_is_what_only_this_machine_reaches(scheme: str, host: str, loopback: bool) -> None:
    assert Address.parse(f"{scheme}://{host}:7001").is_loopback is loopback
