"""Outputs that shall become one, and what the records beside them say of them."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

from glinthawk.core.errors import UsageError
from glinthawk.files.shard import Shard
from glinthawk.files.source_record import SourceRecord, load_source_record
from glinthawk.jobs.record import Record, list_differences, load_record

__all__ = ["ShardParts"]


class ShardParts:
    """``records`` and ``shards`` are of those of ``paths`` that have them. Raises UsageError where
    parts are of different jobs, or one is given twice."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        _check_apart(paths)
        found = ((path, load_source_record(path)) for path in paths)
        self.records: dict[Path, SourceRecord] = {path: one for path, one in found if one}
        self.shards = {
            path: Shard.parse(one.shard) for path, one in self.records.items() if one.shard
        }
        _check_one_job(self.shards)
        begun = ((path, _job_record(path)) for path in paths)
        self._jobs = [(path, record) for path, record in begun if record is not None]
        self._check_settings()

    def _check_settings(self) -> None:
        for path, record in self._jobs[1:]:
            first, other = self._jobs[0]
            if differing := _told(other.fingerprint, record.fingerprint):
                raise UsageError(
                    f"{first} and {path} were made with different settings: {differing}; give "
                    "parts of one job"
                )

    @cached_property
    def unknown(self) -> list[Path]:
        """Those without the record of a shard."""
        return [path for path in self.paths if path not in self.shards]

    def lines_of(self, path: Path) -> range:
        """Of the input, from 0, blank ones too: the share of a part with a shard's record."""
        shard = self.shards[path]
        return range(shard.number - 1, self.records[path].num_lines or 0, shard.count)

    def num_blank(self, path: Path) -> int:
        """Of those lines."""
        return len(self.lines_of(path)) - (self.records[path].num_requests or 0)

    def missing(self) -> Iterator[str]:
        """A sentence for each shard that is not there, and for what else keeps the parts from
        being one job."""
        if self.shards:
            yield from _missing_shards(self.shards)
            if len({self.records[path].num_lines for path in self.shards}) > 1:
                yield "the shards are of inputs of different lengths"
        for path, record in self._jobs[1:]:
            first, other = self._jobs[0]
            if differing := _told(other.resolved or {}, record.resolved or {}):
                yield f"{first} and {path} are of machines where settings differ: {differing}"


def _check_apart(paths: Sequence[Path]) -> None:
    for path in paths:
        if not path.exists():
            raise UsageError(f"cannot read {path}: there is no such file; give outputs there are")
    for path, other in combinations(paths, 2):
        if path.samefile(other):
            raise UsageError(f"{other} is given twice; give each part once")


def _check_one_job(shards: dict[Path, Shard]) -> None:
    if len({shard.count for shard in shards.values()}) > 1:
        told = ", ".join(f"{path} is {shard}" for path, shard in shards.items())
        raise UsageError(f"the parts are shards of different jobs: {told}; give those of one")
    by_number: dict[int, Path] = {}
    for path, shard in shards.items():
        if (other := by_number.setdefault(shard.number, path)) != path:
            raise UsageError(f"{other} and {path} are both shard {shard}; give each shard once")


def _job_record(path: Path) -> Record | None:
    """Of an output that was made of results, it lies beside those."""
    return load_record(path) or load_record(path.with_name(path.name + ".results.jsonl"))


def _told(one: dict[str, Any], other: dict[str, Any]) -> str:
    return ", ".join(f"{key} {a} and {b}" for key, a, b in list_differences(one, other))


def _missing_shards(shards: dict[Path, Shard]) -> Iterator[str]:
    (count,) = {shard.count for shard in shards.values()}
    there = {shard.number for shard in shards.values()}
    for number in range(1, count + 1):
        if number not in there:
            yield f"shard {number}/{count} is missing"
