"""Hosts made of network namespaces: own addresses, real TCP between them, cables to be pulled."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

__all__ = ["Host", "hosts"]


@dataclass(frozen=True)
class Host:
    """A namespace with one network card."""

    namespace: str
    cable: str
    ip: str

    def command(self, *words: object) -> list[str]:
        """``words`` as a command that runs on this host."""
        return ["ip", "netns", "exec", self.namespace, *map(str, words)]

    def pull_cable(self) -> None:
        _ip("link", "set", self.cable, "down")

    def plug_cable(self) -> None:
        _ip("link", "set", self.cable, "up")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """So many hosts on one switch. Skips the test where that is not allowed."""
    if shutil.which("ip") is None:
        pytest.skip("there is no ip command to make network namespaces with")
    switch = f"gt{os.getpid()}"
    with ExitStack() as stack:
        try:
            _ip("link", "add", switch, "type", "bridge")
        except subprocess.CalledProcessError:
            pytest.skip("network namespaces are not allowed here")
        stack.callback(_ip, "link", "del", switch)
        _ip("link", "set", switch, "up")
        yield [_add_host(stack, switch, number) for number in range(1, count + 1)]


def _add_host(stack: ExitStack, switch: str, number: int) -> Host:
    host = Host(f"{switch}h{number}", f"{switch}c{number}", f"10.77.31.{number}")
    inside = f"{switch}i{number}"
    _ip("netns", "add", host.namespace)
    stack.callback(_ip, "netns", "del", host.namespace)
    _ip("link", "add", host.cable, "type", "veth", "peer", "name", inside)
    _ip("link", "set", inside, "netns", host.namespace)
    _ip("link", "set", host.cable, "master", switch, "up")
    for words in (
        ["addr", "add", f"{host.ip}/24", "dev", inside],
        ["link", "set", inside, "up"],
        ["link", "set", "lo", "up"],
    ):
        _ip("-n", host.namespace, *words)
    return host
