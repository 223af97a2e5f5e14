"""What is measured as an encrypted link is one: all arrives, and nothing else does."""

import os
import socket
from collections.abc import Iterator

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given
from hypothesis import strategies as st

from glinthawk.bench.bare_sockets import BLOCK, SealedBlocks

KEY = bytes(range(32))
TAG = 16


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Blocks of these tests fit what a socket holds."""
    near, far = socket.socketpair()
    with near, far:
        yield near, far


def _ends() -> tuple[SealedBlocks, SealedBlocks]:
    return SealedBlocks(KEY, is_near=True), SealedBlocks(KEY, is_near=False)


def _seal(end: SealedBlocks, block: bytes) -> bytearray:
    """As it would be on the wire."""
    near, far = socket.socketpair()
    with near, far:
        end.send(near, memoryview(block))
        return bytearray(far.recv(len(block) + TAG, socket.MSG_WAITALL))


def _open(end: SealedBlocks, sealed: bytes, size: int) -> bytes:
    near, far = socket.socketpair()
    with near, far:
        near.sendall(sealed)
        assert end.receive(far, size) == size
        return bytes(end._room[:size])


@given(st.lists(st.binary(min_size=1, max_size=2000), min_size=1, max_size=5))
def test_blocks_arrive_bit_for_bit_in_both_directions(blocks: list[bytes]) -> None:
    near, far = _ends()
    for block in blocks:
        assert _open(far, _seal(near, block), len(block)) == block
        assert _open(near, _seal(far, block), len(block)) == block


@given(st.binary(min_size=1, max_size=100), st.data())
def test_one_flipped_bit_is_refused(block: bytes, data: st.DataObject) -> None:
    near, far = _ends()
    sealed = _seal(near, block)
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(InvalidTag):
        _open(far, sealed, len(block))


def test_a_block_that_is_not_the_next_one_is_refused() -> None:
    near, far = _ends()
    first, second = _seal(near, b"block"), _seal(near, b"block")
    assert first != second
    with pytest.raises(InvalidTag):
        _open(far, second, 5)
    _, far = _ends()
    assert _open(far, first, 5) == b"block"
    with pytest.raises(InvalidTag):
        _open(far, first, 5)


def test_what_an_end_has_sent_does_not_pass_for_the_other_ends() -> None:
    near, _ = _ends()
    sealed = _seal(near, b"block")
    with pytest.raises(InvalidTag):
        _open(near, sealed, 5)


def test_an_end_that_stops_within_a_block_is_noticed(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = pair
    near.sendall(os.urandom(100))
    near.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionError):
        _ends()[1].receive(far, BLOCK)
