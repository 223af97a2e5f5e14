"""A job in a process of its own that writes a byte for each answer it takes in."""

import os
import sys
from pathlib import Path

# A script's own folder is known, and not the one around it.
sys.path.append(str(Path(__file__).parents[1]))

from job_files import run_job


def say() -> None:
    """Tell the test that one more answer is in."""
    os.write(1, b".")


if __name__ == "__main__":
    run_job(Path(sys.argv[1]), Path(sys.argv[2]), on_finish=say)
