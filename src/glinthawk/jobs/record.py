"""The small file beside an output that says what the output belongs to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from glinthawk.core.errors import JournalError
from glinthawk.jobs.output import replacing
from glinthawk.jobs.survey import Survey

__all__ = ["Record", "list_differences", "load_record", "plain", "record_path", "save_record"]

_FORMAT = 2
#: Of what settings came to: the only one that may change while a job runs.
_LENGTH = "max_model_len"
_WAYS_OUT = "begin anew with --restart (the old output is moved aside) or give another -o"


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``fingerprint`` is what answers depend on, ``resolved`` what its settings came to on the
    machine: known, and checked, when the model is loaded. ``created`` is when the job was first
    started; ``plan`` is the last run's, if it followed one, for people to read: any other may go
    on."""

    format: int = _FORMAT
    created: int
    fingerprint: dict[str, Any]
    input_bytes: int
    input_sha256: str
    resolved: dict[str, Any] | None = None
    plan: dict[str, Any] | None = None

    def check_fingerprint(self, fingerprint: Mapping[str, Any], output: Path) -> None:
        """Raise JournalError that names every setting that differs."""
        _check_same(self.fingerprint, plain(fingerprint), output)

    def check_resolved(
        self, resolved: Mapping[str, Any], output: Path, *, may_grow: bool = False
    ) -> None:
        """The same of what settings came to, if that is known; the longest length ``may_grow``."""
        if self.resolved is None:
            return
        now, way = plain(resolved), ""
        if (before := self.grown_from(now)) is not None:
            if may_grow:
                now[_LENGTH] = before
            else:
                way = "with --retry-errors, which takes a longer one, "
        _check_same(self.resolved, now, output, way)

    def grown_from(self, resolved: Mapping[str, Any]) -> int | None:
        """The longest length so far, if that of ``resolved`` is longer."""
        before = (self.resolved or {}).get(_LENGTH)
        return before if before is not None and resolved[_LENGTH] > before else None

    def check_input(self, survey: Survey, source: Path, output: Path) -> None:
        """Raise JournalError unless the input is the recorded one, perhaps with lines added."""
        if survey.prefix_sha256 != self.input_sha256:
            raise JournalError(
                f"{source} no longer begins with the {self.input_bytes} bytes that {output} was "
                f"begun with; put the old input back, {_WAYS_OUT}"
            )
        if not survey.prefix_is_whole_lines:
            raise JournalError(
                f"the last line of {source} went on after {output} was begun; add new requests "
                f"on lines of their own, {_WAYS_OUT}"
            )


def _check_same(then: dict[str, Any], now: dict[str, Any], output: Path, way: str = "") -> None:
    differing = [f"{key} was {a} and is {b}" for key, a, b in list_differences(then, now)]
    if differing:
        raise JournalError(
            f"{output} was begun with other settings: {', '.join(differing)}; "
            f"run with the same ones, {way}{_WAYS_OUT}"
        )


def list_differences(one: dict[str, Any], other: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Settings that are not the same: their names, and what each says, to be told."""
    return [
        (key, _show(one, key), _show(other, key))
        for key in sorted(one.keys() | other.keys())
        if _show(one, key) != _show(other, key)
    ]


def record_path(output: Path) -> Path:
    """Where the record of ``output`` lies."""
    return output.with_name(output.name + ".journal")


def plain(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """``fingerprint`` as it looks after a round through JSON."""
    return msgspec.json.decode(msgspec.json.encode(fingerprint), type=dict[str, Any])


def load_record(output: Path) -> Record | None:
    """The record beside ``output``, or None."""
    path = record_path(output)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        record = msgspec.json.decode(raw, type=Record)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise JournalError(f"{path} is not a journal ({error}); {_WAYS_OUT}") from error
    if record.format != _FORMAT:
        raise JournalError(f"{path} is of another version of glinthawk; {_WAYS_OUT}")
    return record


def save_record(output: Path, record: Record) -> None:
    """Replace the record in one go: a kill leaves the old one or the new one."""
    path = record_path(output)
    try:
        with replacing(path) as file:
            file.write(msgspec.json.encode(record) + b"\n")
    except OSError as error:
        raise JournalError(
            f"cannot write {path}: {error.strerror}; make room or give another -o"
        ) from error


def _show(values: dict[str, Any], key: str) -> str:
    return msgspec.json.encode(values[key], order="sorted").decode() if key in values else "unset"
