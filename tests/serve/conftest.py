"""One server for all tests that do not harm it."""

from collections.abc import Iterator

import pytest
from openai import OpenAI

from servers import Server, running


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("served") / "data"
    with running(data, "--max-body-size", "64KiB", "--max-file-size", "4MiB") as begun:
        yield begun


@pytest.fixture
def client(server: Server) -> Iterator[OpenAI]:
    with server.client() as opened:
        yield opened
