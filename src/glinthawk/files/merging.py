"""Outputs of several shards become one, and what they lack is told."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import msgspec

from glinthawk.core.errors import UsageError
from glinthawk.files.byte_streams import telling_damage, unpack, utf8
from glinthawk.files.drafts import drafted
from glinthawk.files.merged_tables import count_rows, join_tables, read_ids
from glinthawk.files.packed_results import pack_gzip, pack_zstd
from glinthawk.files.repeated_ids import RepeatedIds
from glinthawk.files.shard_parts import ShardParts
from glinthawk.files.target import Target, TargetForm
from glinthawk.jobs.finished import Finished, is_success, read_line_number

__all__ = ["Merged", "merge_outputs"]

#: Numbers of lines, and custom_ids, that are told one by one.
_MOST = 10
_CUSTOM_ID = re.compile(rb'\{"id":"[^"]*","custom_id":("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True, slots=True)
class Merged:
    """``missing`` has a sentence for whatever is not as in a job that was not divided."""

    num_results: int
    num_errors: int
    missing: tuple[str, ...]


def merge_outputs(output: Path, parts: Sequence[Path]) -> Merged:
    """Write the results of all ``parts`` to ``output``, which must not be there yet.

    Parquet gets the rows in the input's order if every part's record lies beside it, and no line
    of the input is blank. Raises UsageError where parts are of different forms or jobs, or answer
    a line twice.
    """
    if output.exists():
        raise UsageError(f"{output} exists; remove it, or give another file to merge into")
    forms = {Target(str(path)).form is TargetForm.PARQUET for path in (output, *parts)}
    if len(forms) > 1:
        raise UsageError("Parquet and JSONL do not go together; give all the files one form")
    shards = ShardParts(parts)
    return (_merge_tables if True in forms else _merge_lines)(output, shards)


def _merge_tables(output: Path, parts: ShardParts) -> Merged:
    shards, ids = parts.shards, RepeatedIds()
    ordered = sorted(parts.paths, key=lambda part: shards[part].number if part in shards else 0)
    in_turn = not parts.unknown and not any(map(parts.num_blank, ordered))
    with drafted(output) as draft:
        count, errors = join_tables(draft, ordered, ids, in_turn=in_turn)
    missing = chain(parts.missing(), _missing_rows(parts), _repeated(ids, map(read_ids, ordered)))
    return Merged(count, errors, tuple(missing))


def _missing_rows(parts: ShardParts) -> Iterator[str]:
    if parts.unknown:
        yield (
            f"no record of a shard lies beside {', '.join(map(str, parts.unknown))}: whether all "
            "rows are there, and in the input's order, is not known"
        )
    elif any(map(parts.num_blank, parts.shards)):
        yield "the input has blank lines, so one shard's rows stand after another's"
    for path, shard in parts.shards.items():
        rows, awaited = count_rows(path), parts.records[path].num_requests
        if rows != awaited:
            yield f"shard {shard} has {rows} rows for {awaited} requests"


def _merge_lines(output: Path, parts: ShardParts) -> Merged:
    finished, ids = Finished(), RepeatedIds()
    with drafted(output) as draft:
        _join_lines(draft, parts.paths, finished, ids, Target(str(output)).form)
    again = (_answered_ids(_results(part)) for part in parts.paths)
    missing = chain(parts.missing(), _missing_lines(parts, finished), _repeated(ids, again))
    return Merged(finished.num_done, len(finished.failures), tuple(missing))


def _repeated(ids: RepeatedIds, again: Iterable[Iterable[str]]) -> Iterator[str]:
    if ids.is_likely and (names := ids.among(chain.from_iterable(again))):
        some = f"{', '.join(names[:_MOST])}{', ...' if len(names) > _MOST else ''}"
        yield (
            f"{len(names)} custom_ids have several answers, where a job that is not divided gives "
            f"one, and errors: {some}"
        )


def _join_lines(
    path: Path, parts: Sequence[Path], finished: Finished, ids: RepeatedIds, form: TargetForm
) -> None:
    plain = path.with_name(path.name + ".lines") if form is not TargetForm.LINES else path
    try:
        with plain.open("wb", buffering=1 << 20) as file:
            for part in parts:
                _append_lines(file, part, finished, ids)
        if form is TargetForm.GZIP:
            pack_gzip(plain, path)
        elif form is TargetForm.ZSTD:
            pack_zstd(plain, path)
    finally:
        if plain != path:
            plain.unlink(missing_ok=True)


def _append_lines(file: BinaryIO, part: Path, finished: Finished, ids: RepeatedIds) -> None:
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
        ids.add(_answered_ids([result]))
        file.write(result)


def _answered_ids(results: Iterable[bytes]) -> Iterator[str]:
    for result in results:
        if is_success(result) and (found := _CUSTOM_ID.match(result)):
            yield msgspec.json.decode(found[1], type=str)


def _results(part: Path) -> Iterator[bytes]:
    try:
        raw = part.open("rb")
    except OSError as error:
        raise UsageError(f"cannot read {part}: {error.strerror}; give outputs there are") from error
    with raw, telling_damage(str(part)):
        yield from utf8(unpack(raw, str(part)))


def _missing_lines(parts: ShardParts, finished: Finished) -> Iterator[str]:
    """Of each shard that is there; without records, the gaps between what is answered."""
    for path, shard in parts.shards.items():
        count, which = _find_open(parts.lines_of(path), finished)
        count -= parts.num_blank(path)
        if count > 0:
            yield f"shard {shard} lacks {count} results: {which}"
    if not parts.shards:
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
