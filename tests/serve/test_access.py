"""Keys, sizes, addresses and whatever else is sent that is no request."""

import json
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI

from commands import glinthawk, line
from glinthawk.core.errors import UsageError
from glinthawk.serve.api_keys import ApiKeys
from servers import Server, running, upload, wait_for
from watching import wait_until

HELLO: Any = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("guarded")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(folder / "key"), "-out", str(folder / "certificate")]
    subprocess.run(command, check=True, capture_output=True)
    tls = ["--ssl-keyfile", folder / "key", "--ssl-certfile", folder / "certificate"]
    keys = ["--api-key", "alice=one", "--api-key", "bob=two", "--api-key", "three"]
    with running(folder / "data", *tls, *keys) as server:
        server.certificate = folder / "certificate"  # type: ignore[attr-defined]
        yield server


def speaking(server: Server, key: str) -> OpenAI:
    context = ssl.create_default_context(cafile=server.certificate)  # type: ignore[attr-defined]
    return server.client(key, http_client=openai.DefaultHttpxClient(verify=context))


def test_files_and_batches_belong_to_their_key(guarded: Server) -> None:
    assert guarded.url.startswith("https://")
    with speaking(guarded, "one") as alice, speaking(guarded, "two") as bob:
        file = upload(alice, [line("a", prompt="A", max_tokens=2)])
        asked: Any = {"endpoint": "/v1/completions", "completion_window": "1h"}
        batch = alice.batches.create(input_file_id=file, **asked)
        refused = [
            lambda: bob.files.content(file),
            lambda: bob.files.delete(file),
            lambda: bob.batches.retrieve(batch.id),
            lambda: bob.batches.cancel(batch.id),
            lambda: bob.batches.list(after=batch.id),
            lambda: bob.batches.create(input_file_id=file, **asked),
        ]
        for ask in refused:
            with pytest.raises(openai.NotFoundError):
                ask()
        assert not bob.batches.list().data and not bob.files.list().data
        done = wait_for(alice, batch.id)
        with pytest.raises(openai.NotFoundError):
            bob.files.content(done.output_file_id)


def test_without_a_key_nothing_is_answered(guarded: Server) -> None:
    for key in ("", "four", "one ", "alice=one", "alice", "ONE"):
        with speaking(guarded, key or "-") as nobody:
            for ask in (nobody.models.list, nobody.files.list, nobody.batches.list):
                if key == "one ":
                    continue
                with pytest.raises(openai.AuthenticationError) as told:
                    ask()
                assert told.value.code == "invalid_api_key"
    with speaking(guarded, "three") as third:
        assert third.models.list().data


@given(st.text(max_size=40))
def test_only_a_whole_key_is_one(guess: str) -> None:
    keys = ApiKeys(["alice=secret", "plain=="])
    assert keys.owner_of(f"Bearer {guess}") is None or guess.strip() in ("secret", "plain==")
    assert keys.owner_of(guess) is None


def test_keys_have_names_that_stay() -> None:
    assert ApiKeys(["a=x"]).owner_of("bearer x") == "a"
    assert ApiKeys(["x"]).owner_of("Bearer x") == ApiKeys(["b=y", "x"]).owner_of("Bearer x")
    assert ApiKeys([]).owner_of(None) == ""
    for bad in (["a=x", "b=x"], [" "], ["a=b\nc"]):
        with pytest.raises(UsageError):
            ApiKeys(bad)


# What is no request


def talk(server: Server, raw: bytes) -> bytes:
    """All that is answered to ``raw``."""
    host, port = server.url.removeprefix("http://").removesuffix("/v1").split(":")
    with socket.create_connection((host, int(port))) as peer:
        peer.sendall(raw)
        return b"".join(iter(lambda: peer.recv(1 << 16), b""))


def post(server: Server, path: str, body: bytes, kind: str = "application/json") -> tuple[int, Any]:
    head = f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: {kind}\r\nConnection: close\r\n"
    answer = talk(server, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    status, _, rest = answer.partition(b"\r\n")
    return int(status.split()[1]), json.loads(rest.partition(b"\r\n\r\n")[2])


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"3", b"null", b"\xff", b'{"a":' * 5000, b'{"messages": NaN}', b'"\\ud800"'],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/batches"])
def test_bodies_that_are_none(server: Server, path: str, body: bytes) -> None:
    status, told = post(server, path, body)
    assert status == 400 and told["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("form", "status"),
    [
        (b"", 400),
        (b"--x\r\n\r\nno headers\r\n--x--\r\n", 400),
        (b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--\r\n', 400),
        (b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhalf', 400),
        (b"not a form at all", 400),
        (b'--x\r\nContent-Disposition: form-data; name="' + b"a" * 99_999 + b'"\r\n\r\n', 400),
        (b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"a" * 99_999, 400),
        (b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n' * 999 + b"--x--\r\n", 400),
        (
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
            + b"a" * (5 << 20),
            413,
        ),
    ],
)
def test_forms_that_are_none(server: Server, form: bytes, status: int) -> None:
    answered, told = post(server, "/v1/files", form, "multipart/form-data; boundary=x")
    assert (answered, told["error"]["type"]) == (status, "invalid_request_error")
    assert not list((server.data / "uploads").iterdir())


def test_a_body_that_is_too_large(server: Server) -> None:
    status, told = post(server, "/v1/chat/completions", b" " * (1 << 17))
    assert status == 413 and "--max-body-size" in told["error"]["message"]
    for query in ("limit=0", "limit=-1", "limit=a", "limit=101", "limit=%C2%B2", "after=nobody"):
        answer = talk(server, f"GET /v1/batches?{query} HTTP/1.0\r\n\r\n".encode())
        assert answer.split()[1] in (b"400", b"404")


def test_a_client_that_goes_away_in_its_upload_leaves_nothing(server: Server) -> None:
    with server.client() as client:
        before = [one.id for one in client.files.list()]
        host, port = server.url.removeprefix("http://").removesuffix("/v1").split(":")
        form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        head = b"POST /v1/files HTTP/1.1\r\nHost: h\r\nContent-Length: 3000000\r\n"
        head += b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        uploads = server.data / "uploads"
        with socket.create_connection((host, int(port))) as peer:
            peer.sendall(head + form + b"a" * 100_000)
            wait_until(lambda: bool(list(uploads.iterdir())))
        wait_until(lambda: not list(uploads.iterdir()))
        assert [one.id for one in client.files.list()] == before


def test_a_client_that_goes_away_is_answered_no_more(server: Server) -> None:
    def aborted() -> float:
        return server.metric("request_aborted_total")

    asked: Any = {"model": "demo", "prompt": "A", "max_tokens": 1000, "stream": True}
    with server.client() as client:
        for number in range(2):
            before = aborted()
            stream = client.completions.create(
                **asked, extra_body={"ignore_eos": True}, seed=number
            )
            next(iter(stream))
            stream.close()
            wait_until(lambda before=before: aborted() > before)
        body = json.dumps(asked | {"stream": False, "ignore_eos": True}).encode()
        host, port = server.url.removeprefix("http://").removesuffix("/v1").split(":")
        before, running_ = aborted(), lambda: server.metric("num_requests_running")
        with socket.create_connection((host, int(port))) as peer:
            head = (
                f"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            peer.sendall(head.encode() + body)
            wait_until(lambda: running_() > 0)
        wait_until(lambda: aborted() > before and running_() == 0)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--ssl-keyfile", "missing"], "--ssl-certfile"),
        (["--ssl-keyfile", "missing", "--ssl-certfile", "missing"], "there is no file"),
        (["--api-key", "a=x", "--api-key", "b=x"], "two names"),
        (["--host", "host.invalid"], "give another --host"),
        (["--max-file-size", "much"], "much"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, more: list[str], said: str) -> None:
    done = glinthawk("serve", "-m", "demo", "--data", tmp_path / "data", *more)
    assert done.returncode == 2 and said in done.stderr


def test_a_folder_that_another_server_has(server: Server) -> None:
    done = glinthawk("serve", "-m", "demo", "--data", server.data)
    assert done.returncode == 2 and "another server" in done.stderr


@pytest.mark.parametrize("place", ["thesis.txt", "files/thesis.txt", "batches/mine/in.jsonl"])
def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path, place: str) -> None:
    mine = tmp_path / "data" / place
    mine.parent.mkdir(parents=True)
    mine.write_text("three years")
    done = glinthawk("serve", "-m", "demo", "--data", tmp_path / "data")
    assert done.returncode == 2 and "no records of a server" in done.stderr
    assert mine.read_text() == "three years"


def test_what_a_server_has_not_made_stays_in_its_folder(tmp_path: Path) -> None:
    with running(tmp_path / "data") as server:
        mine = server.data / "files" / "notes.txt"
        mine.write_text("mine")
    with running(tmp_path / "data"):
        assert mine.read_text() == "mine"


def test_an_empty_key_of_the_environment_opens_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLINTHAWK_API_KEY", " ")
    done = glinthawk("serve", "-m", "demo", "--data", tmp_path / "data")
    assert done.returncode == 2 and "has no key" in done.stderr


def test_keys_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLINTHAWK_API_KEY", "alice=one two")
    with running(tmp_path / "data") as server:
        for key in ("one", "two"):
            with server.client(key) as client:
                assert client.models.list().data
        with server.client("three") as client, pytest.raises(openai.AuthenticationError):
            client.models.list()


def test_a_full_disk_refuses_an_upload_and_keeps_the_rest(server: Server) -> None:
    """The folder for uploads cannot be written: what a disk without room says differs in words."""
    uploads = server.data / "uploads"
    with server.client() as client:
        before = upload(client, [line("a", prompt="A")])
        uploads.rmdir()
        try:
            with pytest.raises(openai.InternalServerError) as told:
                upload(client, [line("b", prompt="B")])
            assert told.value.status_code == 507
        finally:
            uploads.mkdir()
        assert client.files.retrieve(before).id == before
        assert client.models.list().data


def test_another_model_is_not_there_but_lines_may_name_any(client: OpenAI) -> None:
    for name in ("gpt-4o", "demo/", 3):
        asked: Any = {"model": name, "prompt": "A", "max_tokens": 1}
        with pytest.raises(openai.NotFoundError) as told:
            client.completions.create(**asked)
        assert (told.value.code, told.value.param) == ("model_not_found", "model")
    file = upload(client, [line("a", model="gpt-4o", prompt="A", max_tokens=1)])
    asked = {"endpoint": "/v1/completions", "completion_window": "1h"}
    batch = client.batches.create(input_file_id=file, **asked)
    assert wait_for(client, batch.id).request_counts.completed == 1


@pytest.mark.parametrize("prefix", ["", "/v2", "/v1/v1"])
def test_clients_may_leave_the_version_out(server: Server, prefix: str) -> None:
    place = server.url.removesuffix("/v1") + prefix
    with OpenAI(base_url=place, api_key="any", max_retries=0) as client:
        assert client.models.list().data[0].id == "demo"
        assert client.models.retrieve("demo").id == "demo"
        assert client.completions.create(model="demo", prompt="A", max_tokens=1).choices
        assert client.files.list().data is not None and client.batches.list().data is not None
