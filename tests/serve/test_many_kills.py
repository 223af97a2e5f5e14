"""Hundreds of kills of one server, by `make test-kills`."""

import sys
from pathlib import Path

import pytest

from killed_batches import check_kills


@pytest.mark.kills
def test_many_kills_lose_no_line(tmp_path: Path, kills: int, kill_seed: int) -> None:
    """Between two of ``kills`` one more server is killed, before it listens."""
    moving = check_kills(tmp_path / "data", kill_seed, kills, batches=10, unready=1)
    sys.stdout.write(f"seed {kill_seed}: {kills} kills, {moving} of them while batches moved\n")
