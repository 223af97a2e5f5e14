"""The closed union: what goes in comes out, and nothing else ever gets in."""

import contextlib
import math
import tracemalloc
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec import inspect

from glinthawk.core.errors import WireError
from glinthawk.core.spec import AttentionLayer
from glinthawk.wire.messages import (
    VERSION,
    Ask,
    Attend,
    Attended,
    Begin,
    Fetch,
    Fetched,
    FromTier1,
    FromWorker,
    Open,
    Ping,
    ReleaseKV,
    Spans,
    Store,
    decode,
    encode,
)
from message_values import claims, sample, values

QUIET = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
MEMBERS = [(kind, side) for side in (FromTier1, FromWorker) for kind in get_args(side)]


def _any(kind: Any) -> st.SearchStrategy[Any]:
    return values(inspect.type_info(kind))


ANY_MESSAGE = st.one_of([_any(kind).map(lambda m, s=side: (m, s)) for kind, side in MEMBERS])


@pytest.mark.parametrize(("kind", "side"), MEMBERS)
@QUIET
@given(data=st.data())
def test_every_message_comes_back_as_it_was(kind: Any, side: Any, data: st.DataObject) -> None:
    message = data.draw(_any(kind))
    back = decode(encode(message), side)
    assert type(back) is kind
    assert back == message


@QUIET
@given(ANY_MESSAGE)
def test_every_truncated_header_is_a_wire_error(pair: tuple[Any, Any]) -> None:
    message, side = pair
    header = encode(message)
    for end in range(len(header)):
        with pytest.raises(WireError, match=f"wire version {VERSION}"):
            decode(header[:end], side)


@QUIET
@given(ANY_MESSAGE)
def test_what_follows_a_message_in_its_header_is_a_wire_error(pair: tuple[Any, Any]) -> None:
    message, side = pair
    with pytest.raises(WireError):
        decode(encode(message) + b"\0", side)


@QUIET
@given(st.binary(max_size=200), st.sampled_from([FromTier1, FromWorker]))
@example(b"\x91\xa1\xff", FromTier1)
def test_random_bytes_are_a_wire_error_or_a_message(header: bytes, side: Any) -> None:
    try:
        message = decode(header, side)
    except WireError:
        return
    assert isinstance(message, get_args(side))


@QUIET
@given(ANY_MESSAGE, st.integers(0, 500), st.integers(1, 255))
@example((Ask(), FromTier1), 2, 128)
def test_a_changed_byte_is_a_wire_error_or_a_message(
    pair: tuple[Any, Any], where: int, bits: int
) -> None:
    message, side = pair
    header = bytearray(encode(message))
    header[where % len(header)] ^= bits
    try:
        changed = decode(bytes(header), side)
    except WireError:
        return
    assert isinstance(changed, get_args(side))


@QUIET
@given(st.binary(max_size=30))
@example(b"float\xff2")
def test_text_that_is_not_utf_8_is_a_wire_error(name: bytes) -> None:
    packed = msgspec.msgpack.encode(Open(VERSION, [], "?" * len(name), "float32"))
    header = packed.replace(b"?" * len(name), name, 1) if name else packed
    with contextlib.suppress(WireError):
        assert isinstance(decode(header, FromTier1), Open)


def test_a_header_nested_a_hundred_thousand_deep_is_a_wire_error() -> None:
    with pytest.raises(WireError):
        decode(b"\x92\xa3ask" + b"\x91" * 100_000 + b"\x00", FromTier1)


@pytest.mark.parametrize(("kind", "side"), MEMBERS)
def test_a_message_of_the_other_side_is_a_wire_error(kind: Any, side: Any) -> None:
    other = FromWorker if side is FromTier1 else FromTier1
    with pytest.raises(WireError):
        decode(encode(sample(kind)), other)


@pytest.mark.parametrize(
    "fields",
    [
        [],
        ["attend"],
        ["attend", 1],
        ["attend", 1, 2.5],
        ["attend", 1, "2"],
        ["attend", 1, None],
        ["releasekv", {"sequences": [1]}],
        ["releasekv", [1, "2"]],
        ["begin", 1, [[1], [2]], [[], [], []]],
        ["system", "ls"],
        [1, 2, 3],
        {"type": "attend", "step": 1, "layer": 2},
        None,
    ],
)
def test_fields_of_a_wrong_kind_are_a_wire_error(fields: object) -> None:
    with pytest.raises(WireError):
        decode(msgspec.msgpack.encode(fields), FromTier1)


def test_tags_are_the_messages_names() -> None:
    assert encode(Attend(1, 2)) == msgspec.msgpack.encode(["attend", 1, 2])
    assert encode(Ask()) == msgspec.msgpack.encode(["ask"])
    assert len({kind.__struct_config__.tag for kind, _ in MEMBERS}) == len(MEMBERS)


def test_the_two_sides_share_no_message() -> None:
    assert not set(get_args(FromTier1)) & set(get_args(FromWorker))


@pytest.mark.parametrize(
    "message",
    [
        Attend(2**31, 127),
        Attended(2**31, 127, 999_999),
        Fetch(2**31, 127),
        Fetched(2**31, 127, 999_999),
        Store(2**31, 127),
    ],
)
def test_a_layers_header_is_a_few_bytes(message: Any) -> None:
    assert len(encode(message)) <= 24


def test_a_row_of_a_step_is_a_few_bytes() -> None:
    """Sequence number, position and length of 1000 rows, once a step."""
    rows = Spans(list(range(10**6, 10**6 + 1000)), [4095] * 1000, [1] * 1000)
    assert len(encode(Begin(1, rows, Spans([], [], [])))) < 10_000


def test_a_memoryview_is_read_like_bytes() -> None:
    header = memoryview(bytearray(encode(ReleaseKV([1, 2]))))
    assert decode(header, FromTier1) == ReleaseKV([1, 2])


def test_infinite_numbers_survive() -> None:
    layer = AttentionLayer(1, 1, 1, 1, math.inf)
    assert decode(encode(Open(1, [layer], "", "")), FromTier1) == Open(1, [layer], "", "")


def test_messages_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        ReleaseKV([1]).sequences = []  # type: ignore[misc]
    assert Ping() == Ping()


_ALLOWANCE = 1 << 20


@pytest.mark.parametrize(("kind", "side"), MEMBERS)
@pytest.mark.parametrize("length", [2**28, 2**32 - 1])
def test_no_memory_is_taken_for_what_a_list_only_claims(kind: Any, side: Any, length: int) -> None:
    for header in claims(kind, length):
        tracemalloc.start()
        try:
            with pytest.raises(WireError):
                decode(header, side)
            assert tracemalloc.get_traced_memory()[1] < _ALLOWANCE
        finally:
            tracemalloc.stop()


def test_every_list_is_claimed() -> None:
    """The test above looks at something."""
    counts = {kind.__name__: len(list(claims(kind, 2**28))) for kind, _ in MEMBERS}
    assert counts["ReleaseKV"] >= 1
    assert counts["Begin"] >= 7  # two times three columns, and forks
    assert counts["Open"] >= 2  # layers, and a layer's sinks


@pytest.mark.parametrize(
    "fields",
    [
        ["attended", 1, 0, -1],
        ["fetched", 1, 0, -1],
        ["opened", 0, 32, 1],
        ["opened", 5, 0, 1],
        ["opened", 2**31, 32, 1],
        ["opened", -5, 32, 1],
        ["stats", -1.0, 5],
        ["stats", math.nan, 5],
        ["stats", math.inf, 5],
        ["stats", 1.0, -5],
    ],
)
def test_what_a_worker_cannot_have_counted_is_a_wire_error(fields: list[Any]) -> None:
    with pytest.raises(WireError):
        decode(msgspec.msgpack.encode(fields), FromWorker)
