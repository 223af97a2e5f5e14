"""Records: states never go back, whatever is tried and by whom; pages have each record once."""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glinthawk.core.errors import UsageError
from glinthawk.serve.api_objects import BatchObject, FileObject, StateError
from glinthawk.serve.batch_states import ENDED, OPEN, STAMPS, may_follow
from glinthawk.serve.data_folder import DataFolder
from glinthawk.serve.record_store import NoSuchRecord, RecordStore

STATES = (*OPEN, *ENDED)
RANK = {
    "validating": 0, "in_progress": 1, "finalizing": 2, "cancelling": 2,
    "completed": 3, "failed": 3, "expired": 3, "cancelled": 3,
}  # fmt: skip


def batch(id: str = "batch_1") -> BatchObject:
    return BatchObject(
        id=id, endpoint="/v1/completions", input_file_id="file-1", completion_window="1h",
        created_at=1, expires_at=3601,
    )  # fmt: skip


def file(id: str) -> FileObject:
    return FileObject(id=id, bytes=1, created_at=1, filename="a", purpose="batch")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RecordStore]:
    with closing(RecordStore(tmp_path / "records")) as opened:
        yield opened


@given(st.lists(st.sampled_from(STATES), max_size=12))
def test_states_never_go_back(wishes: list[str]) -> None:
    now = batch()
    for wish in wishes:
        before = now
        try:
            now = now.moved(wish)
        except StateError:
            assert not may_follow(before.status, wish)
            continue
        assert RANK[now.status] > RANK[before.status]
        assert getattr(now, STAMPS[wish]) is not None
        stamps = [name for name in STAMPS.values() if getattr(before, name) is not None]
        assert all(getattr(now, name) == getattr(before, name) for name in stamps)


@given(wishes=st.lists(st.sampled_from(STATES), min_size=1, max_size=8))
def test_of_two_who_change_a_batch_at_once_each_sees_the_others_state(
    tmp_path_factory: pytest.TempPathFactory, wishes: list[str]
) -> None:
    """Two threads try the same states: one wins each, and what is read only grows."""
    path = tmp_path_factory.mktemp("records") / "records"
    with closing(RecordStore(path)) as store:
        store.add_batch("", batch())
        won: list[str] = []

        def try_all() -> None:
            for wish in wishes:
                try:
                    store.change_batch("", "batch_1", lambda now, to=wish: now.moved(to))
                    won.append(wish)
                except StateError:
                    pass

        threads = [threading.Thread(target=try_all) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(won)) == len(won)
        assert store.find_batch("", "batch_1").status == (won or ["validating"])[-1] or (
            RANK[store.find_batch("", "batch_1").status] == max(map(RANK.__getitem__, won))
        )


def test_a_change_and_its_files_come_together_or_not_at_all(store: RecordStore) -> None:
    store.add_batch("", batch())
    store.add_file("", file("file-1"))
    with pytest.raises(StateError):
        store.change_batch("", "batch_1", lambda now: now.moved("completed"), [file("file-2")])
    with pytest.raises(Exception, match="UNIQUE"):
        store.change_batch("", "batch_1", lambda now: now.moved("failed"), [file("file-1")])
    assert store.find_batch("", "batch_1").status == "validating"
    assert store.file_ids() == {"file-1"}


@pytest.mark.parametrize("is_ascending", [False, True])
def test_pages_have_each_record_once(store: RecordStore, is_ascending: bool) -> None:
    ids = [f"file-{number}" for number in range(10)]
    for id in ids:
        store.add_file("alice", file(id))
        store.add_file("bob", file(f"{id}-of-bob"))
    found: list[str] = []
    while True:
        after = found[-1] if found else None
        page = store.list_files("alice", after=after, limit=3, is_ascending=is_ascending)
        found += [one.id for one in page.data]
        if not page.has_more:
            break
    assert found == (ids if is_ascending else ids[::-1])


def test_nobody_sees_what_belongs_to_another(store: RecordStore) -> None:
    store.add_file("alice", file("file-1"))
    store.add_batch("alice", batch())
    asks = [
        lambda: store.find_file("bob", "file-1"),
        lambda: store.delete_file("bob", "file-1"),
        lambda: store.find_batch("bob", "batch_1"),
        lambda: store.list_files("bob", after="file-1"),
        lambda: store.change_batch("bob", "batch_1", lambda now: now.moved("failed")),
    ]
    for ask in asks:
        with pytest.raises(NoSuchRecord):
            ask()
    assert not store.list_batches("bob").data and not store.list_files("bob").data
    assert store.find_batch("alice", "batch_1").status == "validating"


def test_records_of_another_version_are_refused(tmp_path: Path) -> None:
    import sqlite3

    with closing(sqlite3.connect(tmp_path / "records")) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(UsageError, match="another version"):
        RecordStore(tmp_path / "records")


def test_a_folder_has_one_server_and_is_swept(tmp_path: Path) -> None:
    with closing(DataFolder(tmp_path)) as folder:
        with pytest.raises(UsageError, match="another server"):
            DataFolder(tmp_path)
        for name in ("file-111111111111111111111111", "file-222222222222222222222222"):
            upload = folder.new_upload()
            upload.write_bytes(b"x")
            folder.keep(upload, name)
        folder.new_upload().write_bytes(b"torn")
        folder.begin_batch("batch_111111111111111111111111", "file-111111111111111111111111")
        folder.begin_batch("batch_222222222222222222222222", "file-111111111111111111111111")
        folder.sweep({"file-111111111111111111111111"}, {"batch_222222222222222222222222"})
        assert (
            folder.content("file-111111111111111111111111").exists()
            and not folder.content("file-222222222222222222222222").exists()
        )
        assert folder.batch_input("batch_222222222222222222222222").read_bytes() == b"x"
        assert not folder.batch_input("batch_111111111111111111111111").parent.exists()
        assert not list((tmp_path / "uploads").iterdir())
    (tmp_path / "records.sqlite").touch()
    DataFolder(tmp_path).close()
