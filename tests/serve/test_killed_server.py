"""A server that is killed at any moment and started again answers every line once."""

from contextlib import closing
from pathlib import Path

from glinthawk.serve.record_store import RecordStore
from killed_batches import check_kills, create, is_moving, lines
from servers import Server, content, running, upload, wait_for
from watching import wait_until


def test_every_line_is_answered_once(tmp_path: Path) -> None:
    check_kills(tmp_path / "data", seed=0, kills=5, batches=4)


def test_a_kill_changes_no_answer(tmp_path: Path) -> None:
    """Sampled ones: the same whether their server was killed or not."""
    found = []
    for name, kills in (("undisturbed", 0), ("killed", 2)):
        with running(tmp_path / name) as server, server.client() as client:
            id = create(client, upload(client, lines(0, 40)))
        for _ in range(kills):
            Server(tmp_path / name).kill()
        with running(tmp_path / name) as server, server.client() as client:
            found.append(content(client, wait_for(client, id).output_file_id))
    for result in (*found[0], *found[1]):
        del result["response"]["body"]["created"]
    assert found[0] == found[1]


def test_fifty_batches_at_once_each_end(tmp_path: Path) -> None:
    with running(tmp_path / "data") as server, server.client() as client:
        files = [upload(client, lines(number, 3)) for number in range(50)]
        ids = [create(client, file) for file in files]
        for number, id in enumerate(ids):
            done = wait_for(client, id)
            assert done.request_counts.completed == 3
            found = {one["custom_id"] for one in content(client, done.output_file_id)}
            assert found == {f"{number}-{one}" for one in range(3)}
        assert server.metric("batches", status="completed") == 50
        assert server.metric("batches_ended_total", status="completed") == 50
    assert not list((tmp_path / "data" / "batches").iterdir())


def test_a_killed_server_still_cancels(tmp_path: Path) -> None:
    with running(tmp_path / "data") as server, server.client() as client:
        id = create(client, upload(client, lines(0, 100, 900)))
    server = Server(tmp_path / "data")
    with server.client() as client:
        assert client.batches.cancel(id).status == "cancelling"
    server.kill()
    with running(tmp_path / "data") as server, server.client() as client:
        done = wait_for(client, id)
        assert done.status == "cancelled"
        assert len(content(client, done.output_file_id)) == done.request_counts.completed


def test_the_end_of_its_window_ends_a_batch(tmp_path: Path) -> None:
    """Records are made to say that it began long ago."""
    with running(tmp_path / "data") as server, server.client() as client:
        id = create(client, upload(client, lines(0, 400)), completion_window="1m")
    with closing(RecordStore(tmp_path / "data" / "records.sqlite")) as store:
        import msgspec

        store.change_batch("", id, lambda now: msgspec.structs.replace(now, expires_at=1))
    with running(tmp_path / "data") as server, server.client() as client:
        done = wait_for(client, id)
        assert done.status == "expired" and done.expired_at
        counts = done.request_counts
        assert counts.failed and counts.completed + counts.failed == counts.total == 400
        late = content(client, done.error_file_id)
        assert {result["error"]["code"] for result in late} == {"batch_expired"}
        good = content(client, done.output_file_id)
        named = {result["custom_id"] for result in (*late, *good)}
        assert len(named) == len(late) + len(good) == 400


def test_the_end_of_its_window_ends_a_batch_of_other_settings(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(data, "--batch-size", 2) as server, server.client() as client:
        id = create(client, upload(client, lines(0, 100, 900)))
        wait_until(lambda: is_moving(client, [id]))
    with closing(RecordStore(data / "records.sqlite")) as store:
        import msgspec

        store.change_batch("", id, lambda now: msgspec.structs.replace(now, expires_at=1))
    with running(data, "--seed", 5) as server, server.client() as client:
        assert wait_for(client, id).status == "expired"


def test_the_nearest_deadline_goes_first(tmp_path: Path) -> None:
    with running(tmp_path / "data", "--batch-size", 2) as server, server.client() as client:
        slow = create(client, upload(client, lines(0, 200)), completion_window="7d")
        fast = create(client, upload(client, lines(1, 20)), completion_window="1h")
        assert wait_for(client, fast).request_counts.completed == 20
        other = client.batches.retrieve(slow)
        assert other.status == "in_progress" and other.request_counts.completed < 200
        client.batches.cancel(slow)
        wait_for(client, slow)


def test_an_interactive_request_goes_before_batches(tmp_path: Path) -> None:
    with running(tmp_path / "data", "--batch-size", 2) as server, server.client() as client:
        id = create(client, upload(client, lines(0, 300)))
        for _ in range(3):
            client.completions.create(model="demo", prompt="A", max_tokens=4)
        batch = client.batches.retrieve(id)
        assert batch.status in ("validating", "in_progress")
        assert batch.request_counts.completed < 300
        client.batches.cancel(id)
        wait_for(client, id)


def test_a_batch_of_other_settings_waits_for_them(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(data, "--batch-size", 2) as server, server.client() as client:
        id = create(client, upload(client, lines(0, 100, 900)))
        wait_until(lambda: is_moving(client, [id]))
    with running(data, "--seed", 5) as server, server.client() as client:
        wait_until(lambda: any("seed was 0 and is 5" in line for line in server.said))
        assert client.batches.retrieve(id).status == "in_progress"
        client.batches.cancel(id)
        done = wait_for(client, id)
        assert done.status == "cancelled" and done.request_counts.completed
