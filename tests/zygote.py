"""Processes of ``glinthawk`` that begin where its libraries are loaded already.

Much of what the tests took was hundreds of processes that each loaded torch and transformers. A
*zygote* has loaded them once, and does nothing else. ``ForkedPopen`` takes the place of
``subprocess.Popen``: where the environment is the zygote's, ``python -m glinthawk``, or a script of
the tests, is forked from it, with arguments, folder, standard streams, session and exit status as
if it had been executed. So are the commands that it starts. Every other command is executed.
"""

import atexit
import inspect
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from fcntl import F_DUPFD, fcntl
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["children", "forked_processes"]

_PRELOADED = (
    "glinthawk.cli.answerers",
    "glinthawk.cli.main",
    "glinthawk.cli.serve_command",
    "glinthawk.engine.pipeline_node",
    "glinthawk.engine.run",
    "glinthawk.jobs.job",
    "glinthawk.serve.http_server",
    "glinthawk.tier2.server",
    "pydantic.fields",  # with which typer reads arguments
    "transformers.models.llama.modeling_llama",
)
#: Set for every test, and by torch once it compiles; read by no library when it is loaded.
_PASSING = ("PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR")
_COMMAND = ["-m", "glinthawk"]
_SCRIPTS = Path(__file__).parent
_MOST_BYTES = 1 << 18
_MOST_FILES = 16
_Popen = subprocess.Popen
_execute = inspect.signature(_Popen._execute_child)  # type: ignore[attr-defined]


def _lasting(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in _PASSING}


class ForkedPopen(_Popen):  # type: ignore[type-arg]
    """``subprocess.Popen`` that has commands of glinthawk forked by the zygote at ``path``."""

    #: Where the zygote is reached, its number, and its environment.
    path: str
    zygote: int | None = None
    environment: dict[str, str]
    #: On which the zygote tells the status of a process that it has forked, and ends.
    _status: socket.socket | None = None

    def _execute_child(self, *arguments: Any, **named: Any) -> None:
        asked = _execute.bind(self, *arguments, **named).arguments
        if not self._is_ours(asked):
            super()._execute_child(*arguments, **named)  # type: ignore[misc]
            return
        status = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        status.connect(self.path)
        streams = [asked["p2cread"], asked["c2pwrite"], asked["errwrite"]]
        streams = [given if given >= 0 else own for own, given in enumerate(streams)]
        request = {
            "words": list(map(os.fsdecode, asked["args"][1:])),
            "folder": os.fsdecode(asked["cwd"] or os.getcwd()),
            "environment": dict(os.environ if asked["env"] is None else asked["env"]),
            "is_session": asked["start_new_session"],
            "group": os.getpgid(0),
            "ignores_sigint": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
            "files": [0, 1, 2, *asked["pass_fds"]],
        }
        socket.send_fds(status, [json.dumps(request).encode()], [*streams, *asked["pass_fds"]])
        self.pid = int(status.recv(64))
        self._child_created, self._status = True, status
        pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(asked[name] for name in pipes))  # type: ignore[attr-defined]

    def _is_ours(self, asked: Mapping[str, Any]) -> bool:
        words, environment = asked["args"], asked["env"]
        return (
            isinstance(words, list)
            and len(words) > 1
            and words[0] == sys.executable
            and (words[1:3] == _COMMAND or Path(words[1]).parent == _SCRIPTS)
            and not asked["shell"]
            and asked["preexec_fn"] is None
            and _lasting(os.environ if environment is None else environment) == self.environment
        )

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._status is None:
            return super()._try_wait(wait_flags)  # type: ignore[misc,no-any-return]
        with suppress(BlockingIOError):
            told = self._status.recv(64, socket.MSG_DONTWAIT if wait_flags else 0)
            self._status.close()
            assert told, "the zygote has died"
            return self.pid, int(told)
        return 0, 0

    def _internal_poll(self, _deadstate: int | None = None, *rest: Any, **named: Any) -> int | None:
        if self._status is None:
            return super()._internal_poll(_deadstate, *rest, **named)  # type: ignore[misc,no-any-return]
        with self._waitpid_lock:  # type: ignore[attr-defined]
            if self.returncode is None:
                pid, status = self._try_wait(os.WNOHANG)
                if pid:
                    self._handle_exitstatus(status)  # type: ignore[attr-defined]
        return self.returncode


def children() -> list[int]:
    """Processes that this one has started, executed or forked, zombies included, in order."""
    zygote = ForkedPopen.zygote
    found = _children(os.getpid()) - {zygote} | (_children(zygote) if zygote else set())
    return sorted(found)


def _children(parent: int) -> set[int]:
    found: set[int] = set()
    for task in Path(f"/proc/{parent}/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that has ended meanwhile
            found.update(map(int, (task / "children").read_text().split()))
    return found


@contextmanager
def forked_processes() -> Iterator[None]:
    """Within the block, in this process and in those that it starts."""
    with tempfile.TemporaryDirectory(prefix="zygote-") as folder:
        path = str(Path(folder) / "socket")
        zygote = _Popen(
            [sys.executable, __file__, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert zygote.stdin is not None and zygote.stdout is not None
        try:
            zygote.stdout.readline()  # it listens
            _install(path)
            ForkedPopen.zygote = zygote.pid
            yield
        finally:
            subprocess.Popen = _Popen  # type: ignore[misc]
            ForkedPopen.zygote = None
            zygote.stdin.close()
            zygote.wait()
            zygote.stdout.close()


def _install(path: str) -> None:
    ForkedPopen.path, ForkedPopen.environment = path, _lasting(os.environ)
    subprocess.Popen = ForkedPopen  # type: ignore[misc]


class _Zygote:
    """Forks what it is asked for, and tells how each ended."""

    def __init__(self, path: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(path)
        self._listener.listen(128)
        self._ended, self._wakeup = socket.socketpair()
        for end in (self._ended, self._wakeup):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._statuses: dict[int, socket.socket] = {}

    def serve(self) -> None:
        """Until standard input ends: who started this has."""
        with selectors.DefaultSelector() as selector:
            for file in (sys.stdin.fileno(), self._listener, self._ended):
                selector.register(file, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._ended in ready:
                    self._ended.recv(4096)
                    self._reap()
                if self._listener in ready:
                    self._fork(self._listener.accept()[0])
                if sys.stdin.fileno() in ready:
                    return

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                with self._statuses.pop(ended[0]) as status, suppress(OSError):
                    status.send(b"%d" % ended[1])

    def _fork(self, status: socket.socket) -> None:
        payload, files, _, _ = socket.recv_fds(status, _MOST_BYTES, _MOST_FILES)
        pid = os.fork()
        if not pid:
            _become(json.loads(payload), files)
        for file in files:
            os.close(file)
        self._statuses[pid] = status
        with suppress(OSError):
            status.send(b"%d" % pid)


def _become(request: dict[str, Any], files: list[int]) -> None:
    """A process that executes the command; never returns."""
    status = 1
    try:
        _take_place(request, files)
        status = _run(request["words"])
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _take_place(request: dict[str, Any], files: list[int]) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    handler = signal.SIG_IGN if request["ignores_sigint"] else signal.default_int_handler
    signal.signal(signal.SIGINT, handler)
    if request["is_session"]:
        os.setsid()
    else:
        with suppress(PermissionError):
            os.setpgid(0, request["group"])
    _take_files(dict(zip(request["files"], files, strict=True)))
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    tempfile.tempdir = None


def _take_files(wanted: dict[int, int]) -> None:
    """Have the files under the wanted numbers, and no other ones."""
    above = max(wanted) + 1
    moved = {number: fcntl(file, F_DUPFD, above) for number, file in wanted.items()}
    for number, file in moved.items():
        os.dup2(file, number)
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in wanted:
            with suppress(OSError):
                os.close(int(name))
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = os.fdopen(number, *_modes(number), closefd=False)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _modes(number: int) -> tuple[Any, ...]:
    """(mode, buffering, encoding, errors) of a standard stream, as the interpreter has them."""
    if number == 0:
        return ("r",)
    is_by_line = number == 2 or os.isatty(number)
    return "w", 1 if is_by_line else -1, None, "backslashreplace" if number == 2 else None


def _run(words: list[str]) -> int:
    """Run the command as the interpreter would; its exit status."""
    try:
        if words[:2] == _COMMAND:
            sys.argv = words[1:]
            runpy.run_module("glinthawk", run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0] = words, str(_SCRIPTS)
            runpy.run_path(words[0], run_name="__main__")
        status = 0
    except SystemExit as end:
        status = _status(end.code)
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    return status


def _status(code: object) -> int:
    if code is None or isinstance(code, int):
        return code or 0
    sys.stderr.write(f"{code}\n")
    return 1


def _main(path: str) -> None:
    sys.path[0] = ""  # as with `python -m`; this folder is for tests
    for name in _PRELOADED:
        import_module(name)
    zygote = _Zygote(path)
    _install(path)
    os.write(1, b"listening\n")
    zygote.serve()


if __name__ == "__main__":
    _main(sys.argv[1])
