"""Results as they are, packed."""

import gzip
import shutil
from pathlib import Path

from glinthawk.files.extras import load_extra

__all__ = ["pack_gzip", "pack_zstd"]

_CHUNK = 1 << 20


def pack_gzip(results: Path, path: Path) -> None:
    """The same bytes for the same results: neither a time nor a name is in it."""
    with (
        results.open("rb") as source,
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as target,
    ):
        shutil.copyfileobj(source, target, _CHUNK)


def pack_zstd(results: Path, path: Path) -> None:
    """Packed by Zstandard at its own level."""
    library = load_extra("zstandard", "-o .zst")
    with results.open("rb") as source, path.open("wb") as target:
        library.ZstdCompressor().copy_stream(source, target)
