"""One server for all tests that do not harm it, and how often those are killed that are."""

from collections.abc import Iterator

import pytest
from openai import OpenAI

from servers import Server, running


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=200, help="of a server with ten batches")
    parser.addoption("--kill-seed", type=int, default=0, help="of the moments of the kills")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kills" in metafunc.fixturenames:
        kills, seed = map(metafunc.config.getoption, ("kills", "kill_seed"))
        metafunc.parametrize(("kills", "kill_seed"), [(kills, seed)])


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("served") / "data"
    with running(data, "--max-body-size", "64KiB", "--max-file-size", "4MiB") as begun:
        yield begun


@pytest.fixture
def client(server: Server) -> Iterator[OpenAI]:
    with server.client() as opened:
        yield opened
