"""A server that is told to end ends, whatever it is doing when it is told."""

import os
import select
import signal
from collections.abc import Iterator

import pytest

from glinthawk.cli.listening import open_lifeline


@pytest.fixture
def lifeline() -> Iterator[int]:
    """Of a server that was started by hand; afterwards signals are as they were."""
    before = signal.getsignal(signal.SIGTERM)
    reader = open_lifeline(False)
    yield reader
    os.close(signal.set_wakeup_fd(-1))
    os.close(reader)
    signal.signal(signal.SIGTERM, before)


def _is_readable(file: int) -> bool:
    return bool(select.select([file], [], [], 0)[0])


def test_a_signal_that_comes_before_the_wait_ends_the_wait(lifeline: int) -> None:
    assert not _is_readable(lifeline)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    assert _is_readable(lifeline)
    assert os.read(lifeline, 1), "only the end of standard input ends a server by itself"


def test_standard_input_is_the_lifeline_of_who_is_given_one(lifeline: int) -> None:
    assert open_lifeline(True) == 0
