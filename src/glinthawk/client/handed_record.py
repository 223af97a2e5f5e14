"""The small file beside an output that says which batches of a server answer its lines."""

from pathlib import Path

import msgspec

from glinthawk.core.errors import JournalError, UsageError
from glinthawk.jobs.output import replacing
from glinthawk.jobs.survey import survey_input

__all__ = ["HandedRecord", "forget_handed", "handed_path", "load_handed", "save_handed"]


class HandedRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``batches`` has an id for each endpoint, None until it is known; the batch has ``token`` in
    its metadata, by which it is found if it was made and its id was never heard."""

    server: str
    token: str
    input_bytes: int
    input_sha256: str
    batches: dict[str, str | None]

    def check_server(self, url: str) -> None:
        """Raises UsageError: the batches are somewhere else."""
        if url != self.server:
            raise UsageError(
                f"the lines are handed in at {self.server}; give --server {self.server}, or begin "
                "anew with --restart"
            )

    def check_input(self, source: Path) -> None:
        """Raises JournalError unless ``source`` begins with what was handed in."""
        if survey_input(source, self.input_bytes).prefix_sha256 != self.input_sha256:
            raise JournalError(
                f"{source} is not what was handed in at {self.server}; put the old input back, or "
                "begin anew with --restart"
            )


def handed_path(output: Path) -> Path:
    """Where the record of ``output`` lies."""
    return output.with_name(output.name + ".batches")


def load_handed(output: Path) -> HandedRecord | None:
    """What was handed in, if anything is."""
    path = handed_path(output)
    try:
        return msgspec.json.decode(path.read_bytes(), type=HandedRecord)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise JournalError(
            f"{path} is no record of batches ({error}); begin anew with --restart"
        ) from error


def save_handed(output: Path, record: HandedRecord) -> None:
    """In one go: a kill leaves the old one or the new one. Raises JournalError."""
    path = handed_path(output)
    try:
        with replacing(path) as file:
            file.write(msgspec.json.encode(record) + b"\n")
    except OSError as error:
        raise JournalError(f"cannot write {path}: {error.strerror}; give another -o") from error


def forget_handed(output: Path) -> None:
    """All results of those batches are here."""
    handed_path(output).unlink(missing_ok=True)
