"""Outputs of several shards become one, and what they lack is told."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from glinthawk.core.errors import UsageError
from glinthawk.files.byte_streams import telling_damage, unpack, utf8
from glinthawk.files.drafts import drafted
from glinthawk.files.merged_tables import join_tables
from glinthawk.files.packed_results import pack_gzip, pack_zstd
from glinthawk.files.shard import Shard
from glinthawk.files.source_record import SourceRecord, load_source_record
from glinthawk.files.target import Target, TargetForm
from glinthawk.jobs.finished import Finished, is_success, read_line_number

__all__ = ["Merged", "merge_outputs"]

#: Numbers of lines that are told one by one.
_MOST = 10


@dataclass(frozen=True, slots=True)
class Merged:
    """``missing`` has a sentence for whatever is not there."""

    num_results: int
    num_errors: int
    missing: tuple[str, ...]


def merge_outputs(output: Path, parts: Sequence[Path]) -> Merged:
    """Write the results of all ``parts`` to ``output``, which must not be there yet.

    Parquet gets the rows in the input's order if every part's record lies beside it. Raises
    UsageError where parts are of different forms, or answer a line twice.
    """
    if output.exists():
        raise UsageError(f"{output} exists; remove it, or give another file to merge into")
    records = {part: record for part in parts if (record := load_source_record(part))}
    shards = _shards(records)
    forms = {Target(str(path)).form is TargetForm.PARQUET for path in (output, *parts)}
    if len(forms) > 1:
        raise UsageError("Parquet and JSONL do not go together; give all the files one form")
    if True in forms:
        ordered = sorted(parts, key=lambda part: shards[part].number if part in shards else 0)
        with drafted(output) as draft:
            count, errors = join_tables(draft, ordered, in_turn=len(shards) == len(parts))
        return Merged(count, errors, tuple(_missing_shards(records, shards)))
    finished = Finished()
    with drafted(output) as draft:
        _join_lines(draft, parts, finished, Target(str(output)).form)
    missing = (*_missing_shards(records, shards), *_missing_lines(records, shards, finished))
    return Merged(finished.num_done, len(finished.failures), missing)


def _shards(records: dict[Path, SourceRecord]) -> dict[Path, Shard]:
    found = {path: Shard.parse(one.shard) for path, one in records.items() if one.shard}
    if len({shard.count for shard in found.values()}) > 1:
        told = ", ".join(f"{path} is {shard}" for path, shard in found.items())
        raise UsageError(f"the parts are shards of different jobs: {told}; give those of one")
    return found


def _missing_shards(records: dict[Path, SourceRecord], shards: dict[Path, Shard]) -> Iterator[str]:
    if not shards:
        return
    (count,) = {shard.count for shard in shards.values()}
    there = {shard.number for shard in shards.values()}
    for number in range(1, count + 1):
        if number not in there:
            yield f"shard {number}/{count} is missing"
    lengths = {records[path].num_lines for path in shards}
    if len(lengths) > 1:
        yield "the shards are of inputs of different lengths"


def _join_lines(path: Path, parts: Sequence[Path], finished: Finished, form: TargetForm) -> None:
    plain = path.with_name(path.name + ".lines") if form is not TargetForm.LINES else path
    try:
        with plain.open("wb", buffering=1 << 20) as file:
            for part in parts:
                _append_lines(file, part, finished)
        if form is TargetForm.GZIP:
            pack_gzip(plain, path)
        elif form is TargetForm.ZSTD:
            pack_zstd(plain, path)
    finally:
        if plain != path:
            plain.unlink(missing_ok=True)


def _append_lines(file: BinaryIO, part: Path, finished: Finished) -> None:
    """What is torn at the end of a part belongs to a job that has not ended."""
    for result in _results(part):
        number = read_line_number(result)
        if number is None:
            if not result.endswith(b"\n"):
                return
            raise UsageError(f"{part} has what is no result; give outputs of `glinthawk run`")
        if number in finished:
            raise UsageError(
                f"line {number + 1} of the input has a second result in {part}; give each shard "
                "once, and shards of one job alone"
            )
        finished.add(number, result, failed=not is_success(result))
        file.write(result)


def _results(part: Path) -> Iterator[bytes]:
    try:
        raw = part.open("rb")
    except OSError as error:
        raise UsageError(f"cannot read {part}: {error.strerror}; give outputs there are") from error
    with raw, telling_damage(str(part)):
        yield from utf8(unpack(raw, str(part)))


def _missing_lines(
    records: dict[Path, SourceRecord], shards: dict[Path, Shard], finished: Finished
) -> Iterator[str]:
    """Of each shard that is there; without records, the gaps between what is answered."""
    for path, shard in shards.items():
        record = records[path]
        numbers = range(shard.number - 1, record.num_lines or 0, shard.count)
        count, which = _find_open(numbers, finished)
        count -= len(numbers) - (record.num_requests or 0)  # blank lines
        if count > 0:
            yield f"shard {shard} lacks {count} results: {which}"
    if not shards:
        count, which = _find_open(range(finished.end), finished)
        if count:
            yield f"{count} lines between others have no result, or are blank: {which}"


def _find_open(numbers: range, finished: Finished) -> tuple[int, str]:
    """How many have no result, and the first of them, from 1."""
    first, count = [], 0
    for number in numbers:
        if number not in finished:
            count += 1
            if count <= _MOST:
                first.append(str(number + 1))
    return count, f"lines {', '.join(first)}{', ...' if count > _MOST else ''}"
