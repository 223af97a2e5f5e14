"""Forms as they come: any cut into chunks, any content; a large one in bounded memory."""

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glinthawk.serve.api_errors import ApiError
from glinthawk.serve.uploads import Upload, receive_upload
from servers import running

_PART = b'--%b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'


def form(boundary: bytes, content: bytes) -> bytes:
    parts = _PART % (boundary, b"purpose", b"", b"batch")
    parts += _PART % (boundary, b"file", b'; filename="a.jsonl"', content)
    return parts + b"--%b--\r\n" % boundary


def receive(place: Path, chunks: list[bytes], most: int = 1 << 20, kind: str = "") -> Upload:
    async def come() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    kind = kind or "multipart/form-data; boundary=xyz"
    return asyncio.run(receive_upload(kind, come(), place, most))


@given(
    content=st.binary(max_size=300) | st.just(b"\r\n--xy\r\n--xyz"),
    cuts=st.lists(st.integers(0, 500)),
)
def test_whatever_is_sent_is_kept(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, cuts: list[int]
) -> None:
    place = tmp_path_factory.mktemp("upload") / "file"
    if b"\r\n--xyz" in content:
        content = content.replace(b"--xyz", b"--abc")
    whole = form(b"xyz", content)
    ends = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    chunks = [whole[begin:end] for begin, end in pairwise(ends)]
    upload = receive(place, chunks)
    assert place.read_bytes() == content
    assert (upload.num_bytes, upload.filename) == (len(content), "a.jsonl")
    assert upload.fields == {"purpose": "batch"}


@given(length=st.integers(0, 200))
def test_the_beginning_of_a_form_is_none(
    tmp_path_factory: pytest.TempPathFactory, length: int
) -> None:
    whole = form(b"xyz", b"some content")
    cut = whole[: min(length, len(whole) - 4)]
    with pytest.raises(ApiError) as told:
        receive(tmp_path_factory.mktemp("upload") / "file", [cut])
    assert told.value.status == 400


def test_a_file_may_have_so_many_bytes_and_no_more(tmp_path: Path) -> None:
    assert receive(tmp_path / "a", [form(b"xyz", b"a" * 50)], most=50).num_bytes == 50
    with pytest.raises(ApiError) as told:
        receive(tmp_path / "b", [form(b"xyz", b"a" * 51)], most=50)
    assert told.value.status == 413


@pytest.mark.parametrize(
    "kind", ["text/plain", "multipart/form-data", "multipart/mixed; boundary=x"]
)
def test_other_types_are_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ApiError, match=r"multipart/form-data"):
        receive(tmp_path / "file", [form(b"xyz", b"")], kind=kind)


def body(size: int) -> Iterator[bytes]:
    head, tail = form(b"xyz", b"SPLIT").split(b"SPLIT")
    yield head
    for _ in range(size >> 20):
        yield b"x" * (1 << 20)
    yield tail


def resident(pid: int, name: str = "VmRSS") -> int:
    """Bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"{name}:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) << 10


@pytest.mark.parametrize(
    "size", [200 << 20, pytest.param(2 << 30, marks=pytest.mark.matrix)], ids=["200MiB", "2GiB"]
)
def test_a_large_upload_takes_little_memory(tmp_path: Path, size: int) -> None:
    import httpx2

    with running(tmp_path / "data") as server:
        before, peak, ended = resident(server.pid), 0, threading.Event()

        def watch() -> None:
            nonlocal peak
            while not ended.wait(0.01):
                peak = max(peak, resident(server.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        headers = {"Content-Type": "multipart/form-data; boundary=xyz"}
        try:
            answer = httpx2.post(
                f"{server.url}/files", content=body(size), headers=headers, timeout=600
            )
        finally:
            ended.set()
            watcher.join()
        assert answer.status_code == 200 and answer.json()["bytes"] == size
        assert max(peak, resident(server.pid)) - before < 50 << 20
        stored = tmp_path / "data" / "files" / answer.json()["id"]
        assert stored.stat().st_size == size
        assert server.metric("uploaded_bytes_total") == size
