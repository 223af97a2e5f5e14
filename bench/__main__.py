"""``python -m bench NAME``, from the repository's root."""

from bench.commands import bench
from glinthawk.cli.main import main

main(bench)
