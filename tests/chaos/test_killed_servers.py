"""A server that is killed at random moments of ten running batches, twice with each seed."""

from pathlib import Path

import pytest

from killed_batches import check_kills


@pytest.mark.chaos
def test_batches_survive_their_server(tmp_path: Path, seed: int) -> None:
    check_kills(tmp_path / "data", seed, kills=2, batches=10)
