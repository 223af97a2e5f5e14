"""The small file beside an output that says what its converters have done."""

import os
from pathlib import Path

import msgspec

from glinthawk.core.errors import JournalError
from glinthawk.files.drafts import drafted

__all__ = ["SourceRecord", "load_source_record", "save_source_record", "source_record_path"]

_FORMAT = 1


class SourceRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``digest`` stands for the source and how it was made into requests; None where that cannot
    be known, as of a pipe. ``whole`` is the size of the results when the output was made of
    them."""

    format: int = _FORMAT
    source: str
    target: str
    digest: str | None
    shard: str | None = None
    num_lines: int | None = None
    num_requests: int | None = None
    whole: int | None = None
    has_errors: bool = False


def source_record_path(base: Path) -> Path:
    """Where the record of the output ``base`` lies."""
    return base.with_name(base.name + ".source")


def load_source_record(base: Path) -> SourceRecord | None:
    """The record beside ``base``, or None. Raises JournalError where it is none of ours."""
    path = source_record_path(base)
    try:
        record = msgspec.json.decode(path.read_bytes(), type=SourceRecord)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError, OSError) as error:
        raise JournalError(f"cannot read {path} ({error}); remove it and run again") from error
    if record.format != _FORMAT:
        raise JournalError(f"{path} is of another version of glinthawk; remove it and run again")
    return record


def save_source_record(base: Path, record: SourceRecord) -> None:
    """Replace the record in one go."""
    with drafted(source_record_path(base)) as draft, draft.open("wb") as file:
        file.write(msgspec.json.encode(record) + b"\n")
        file.flush()
        os.fsync(file.fileno())
