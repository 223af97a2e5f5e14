"""The lines of a source in a batch file beside the output, for a job that may be resumed."""

from contextlib import closing
from pathlib import Path

from glinthawk.files.request_source import RequestSource
from glinthawk.files.shard import Shard

__all__ = ["write_lines"]

_BLANK = b"\n"


def write_lines(source: RequestSource, path: Path, shard: Shard | None) -> tuple[int, int]:
    """Write the lines of ``source`` to ``path``; returns how many there are, and how many of them
    are requests. Those of other shards are blank, so that each keeps its number."""
    count = num_requests = 0
    with path.open("wb", buffering=1 << 20) as file, closing(source.lines()) as lines:
        for count, line in enumerate(lines, start=1):
            if line.isspace() or (shard is not None and count - 1 not in shard):
                file.write(_BLANK)
            else:
                file.write(line)
                num_requests += 1
    return count, num_requests
