"""What the server knows of files and batches: SQLite in the data folder.

A record is there when its call has come back, and after any kill. Contents of files and results of
batches are no part of it.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from glinthawk.core.errors import UsageError
from glinthawk.serve.api_objects import BatchObject, FileObject
from glinthawk.serve.batch_states import OPEN

__all__ = ["NoSuchRecord", "Page", "RecordStore"]

_FORMAT = 1
_SCHEMA = """
CREATE TABLE files (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, owner TEXT NOT NULL,
    purpose TEXT NOT NULL, object BLOB NOT NULL);
CREATE TABLE batches (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, owner TEXT NOT NULL,
    status TEXT NOT NULL, object BLOB NOT NULL);
CREATE INDEX batches_by_status ON batches (status);
"""
_files = msgspec.json.Decoder(FileObject)
_batches = msgspec.json.Decoder(BatchObject)
_Row = tuple[Any, ...]


class NoSuchRecord(Exception):
    """There is none of this name that its owner could see."""


class Page(msgspec.Struct, frozen=True):
    """Some records of a list, and whether there are more behind them."""

    data: Sequence[FileObject | BatchObject]
    has_more: bool


class RecordStore:
    """May be called by any thread. Every method is a transaction. ``owner`` is the name of a key:
    what belongs to another one is as if it were not there."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._connection = _connect(path)

    def close(self) -> None:
        """Let go of the database."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection

    # Files

    def add_file(self, owner: str, file: FileObject) -> None:
        with self._transaction() as database:
            _insert_file(database, owner, file)

    def find_file(self, owner: str, id: str) -> FileObject:
        """Raises NoSuchRecord."""
        with self._transaction() as database:
            row = _find(database, "files", owner, id)
        return _files.decode(row[0])

    def delete_file(self, owner: str, id: str) -> None:
        """Raises NoSuchRecord."""
        with self._transaction() as database:
            _find(database, "files", owner, id)
            database.execute("DELETE FROM files WHERE id = ?", (id,))

    def list_files(
        self,
        owner: str,
        *,
        after: str | None = None,
        limit: int = 10_000,
        purpose: str | None = None,
        is_ascending: bool = False,
    ) -> Page:
        """The newest first, unless ``is_ascending``. Raises NoSuchRecord for an unknown
        ``after``."""
        also = ("", ()) if purpose is None else (" AND purpose = ?", (purpose,))
        with self._transaction() as database:
            rows = _list(database, "files", owner, after, limit, also, is_ascending)
        return Page([_files.decode(row[0]) for row in rows[:limit]], len(rows) > limit)

    def file_ids(self) -> set[str]:
        """Of all owners."""
        with self._transaction() as database:
            return {id for (id,) in database.execute("SELECT id FROM files")}

    # Batches

    def add_batch(self, owner: str, batch: BatchObject) -> None:
        with self._transaction() as database:
            database.execute(
                "INSERT INTO batches (id, owner, status, object) VALUES (?, ?, ?, ?)",
                (batch.id, owner, batch.status, msgspec.json.encode(batch)),
            )

    def find_batch(self, owner: str, id: str) -> BatchObject:
        """Raises NoSuchRecord."""
        with self._transaction() as database:
            row = _find(database, "batches", owner, id)
        return _batches.decode(row[0])

    def list_batches(self, owner: str, *, after: str | None = None, limit: int = 20) -> Page:
        """The newest first. Raises NoSuchRecord for an unknown ``after``."""
        with self._transaction() as database:
            rows = _list(database, "batches", owner, after, limit)
        return Page([_batches.decode(row[0]) for row in rows[:limit]], len(rows) > limit)

    def open_batches(self) -> list[tuple[str, BatchObject]]:
        """Of all owners, with their names: batches in which something is left to do, in the order
        in which they were made."""
        marks = ", ".join("?" * len(OPEN))
        query = f"SELECT owner, object FROM batches WHERE status IN ({marks}) ORDER BY number"
        with self._transaction() as database:
            return [(owner, _batches.decode(raw)) for owner, raw in database.execute(query, OPEN)]

    def count_batches(self) -> dict[str, int]:
        """By state, of all owners."""
        with self._transaction() as database:
            return dict(database.execute("SELECT status, count(*) FROM batches GROUP BY status"))

    def change_batch(
        self,
        owner: str,
        id: str,
        change: Callable[[BatchObject], BatchObject],
        new_files: Sequence[FileObject] = (),
    ) -> BatchObject:
        """What ``change`` makes of it, and its ``new_files``, all or nothing. Raises NoSuchRecord,
        and whatever ``change`` raises, as StateError."""
        with self._transaction() as database:
            changed = change(_batches.decode(_find(database, "batches", owner, id)[0]))
            database.execute(
                "UPDATE batches SET status = ?, object = ? WHERE id = ?",
                (changed.status, msgspec.json.encode(changed), id),
            )
            for file in new_files:
                _insert_file(database, owner, file)
        return changed


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    # What a client was told is not taken back by a power cut.
    connection.execute("PRAGMA synchronous = FULL")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:
        # All at once: a kill leaves no half of it.
        connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_FORMAT}; COMMIT;")
    elif version != _FORMAT:
        connection.close()
        raise UsageError(f"{path} is of another version of glinthawk; give another --data")
    return connection


def _insert_file(database: sqlite3.Connection, owner: str, file: FileObject) -> None:
    database.execute(
        "INSERT INTO files (id, owner, purpose, object) VALUES (?, ?, ?, ?)",
        (file.id, owner, file.purpose, msgspec.json.encode(file)),
    )


def _find(database: sqlite3.Connection, table: str, owner: str, id: str) -> _Row:
    query = f"SELECT object, number FROM {table} WHERE id = ? AND owner = ?"
    row: _Row | None = database.execute(query, (id, owner)).fetchone()
    if row is None:
        raise NoSuchRecord(id)
    return row


def _list(
    database: sqlite3.Connection,
    table: str,
    owner: str,
    after: str | None,
    limit: int,
    also: tuple[str, tuple[str, ...]] = ("", ()),
    is_ascending: bool = False,
) -> list[_Row]:
    """One more than ``limit``, if there are so many. ``also`` is a condition with its values."""
    condition, values = also
    order, beyond = ("ASC", ">") if is_ascending else ("DESC", "<")
    if after is not None:
        condition += f" AND number {beyond} ?"
        values = (*values, _find(database, table, owner, after)[1])
    query = f"SELECT object FROM {table} WHERE owner = ?{condition} ORDER BY number {order} LIMIT ?"
    return database.execute(query, (owner, *values, limit + 1)).fetchall()
