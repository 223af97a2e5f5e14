"""The files that an input is made of: one, those of a folder or of a pattern, in order of name."""

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from glob import glob, has_magic
from pathlib import Path
from typing import Any, BinaryIO

from glinthawk.core.errors import UsageError
from glinthawk.files.own_files import is_own_file
from glinthawk.files.places import (
    STANDARD,
    is_url,
    open_url,
    resolve_url,
    stamp_url,
    telling_failures,
    without_secrets,
)

__all__ = ["SUFFIXES", "Part", "find_parts", "is_known_file", "unpacked_name"]

#: Of the files that are read in a folder, with ``.gz`` and the like after them or not.
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".pq")
_PACKED = (".gz", ".zst", ".bz2", ".xz")


@dataclass(frozen=True, slots=True)
class Part:
    """A file. ``stamp`` changes with its bytes; None of what can be read once only, like a pipe."""

    name: str
    stamp: str | None
    open: Callable[[], BinaryIO]


def find_parts(place: str, own: Sequence[str] = ()) -> list[Part]:
    """Of a path, a pattern, a folder, a URL or ``-``. A folder and a pattern pass over what the run
    writes itself, ``own_names`` of it. Raises UsageError where nothing is."""
    if place == STANDARD:
        return [Part("standard input", None, _open_standard)]
    if is_url(place):
        return _remote_parts(place, own)
    path = Path(place)
    if path.is_dir():
        return _of_folder(place, own)
    if has_magic(place) and not path.exists():
        return _of_pattern(place, own)
    return [_local_part(path)]


def is_known_file(name: str) -> bool:
    """Whether a folder's file of this name is read."""
    return unpacked_name(name).endswith(SUFFIXES)


def unpacked_name(name: str) -> str:
    """In small letters, without the ending of what it is packed by."""
    base = name.lower()
    return next((base.removesuffix(one) for one in _PACKED if base.endswith(one)), base)


def _of_pattern(place: str, own: Sequence[str]) -> list[Part]:
    found = sorted(name for name in glob(place, recursive=True) if Path(name).is_file())
    found = [name for name in found if not is_own_file(name, own)]
    if not found:
        raise UsageError(f"no file is like {place}; correct the pattern of -i")
    return [_local_part(Path(name)) for name in found]


def _of_folder(place: str, own: Sequence[str]) -> list[Part]:
    """Hidden files, and those of hidden folders, are nobody's input."""
    seen = sorted(
        file
        for file in Path(place).rglob("*")
        if file.is_file()
        and is_known_file(file.name)
        and not any(name.startswith(".") for name in file.relative_to(place).parts)
        and not is_own_file(os.fspath(file), own)
    )
    if not seen:
        raise _nothing_in(place)
    return [_local_part(file) for file in seen]


def _nothing_in(place: str) -> UsageError:
    return UsageError(
        f"the folder {place} has no file that ends in {', '.join(SUFFIXES)}; give -i another"
    )


def _local_part(path: Path) -> Part:
    try:
        facts = path.stat()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; give -i an input file") from error
    stamp = f"{facts.st_size},{facts.st_mtime_ns}" if stat.S_ISREG(facts.st_mode) else None
    return Part(os.fspath(path), stamp, partial(_open_local, path))


def _open_standard() -> BinaryIO:
    return open(0, "rb", closefd=False)


def _open_local(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; give -i an input file") from error


def _remote_parts(url: str, own: Sequence[str]) -> list[Part]:
    system, path = resolve_url(url)
    with telling_failures("read", url):
        if has_magic(path) and not system.exists(path):
            names = [name for name in system.glob(path) if system.isfile(name)]
        elif system.isdir(path):
            names = [name for name in system.find(path) if is_known_file(name)]
        else:
            return [_remote_part(system, path)]
    names = [name for name in names if not is_own_file(system.unstrip_protocol(name), own)]
    if not names:
        raise UsageError(f"{without_secrets(url)} leads to no file; correct -i")
    return [_remote_part(system, name) for name in sorted(names)]


def _remote_part(system: Any, path: str) -> Part:
    name = without_secrets(system.unstrip_protocol(path))
    return Part(name, stamp_url(system, path), partial(open_url, system, path))
