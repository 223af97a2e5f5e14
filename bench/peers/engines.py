"""The engines: how each is started, asked and ended. An engine is a process of its own, see
protocol.py; it is given the same CPUs, memory for keys and values, and batch limits as the others.
"""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from ctypes.util import find_library
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models import BUILD, model_folder, openvino_folder
from work import Work, token_bytes

__all__ = ["ENGINES", "Engine", "EngineFailed", "Limits", "Running"]

_HERE = Path(__file__).parent
_GRACE_S = 30
_LAST_LINES = 3


class EngineFailed(Exception):
    """An engine that ended, or was too slow; the message is its last words."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What every engine may use."""

    cpus: tuple[int, ...]
    kv_tokens: int
    longest: int
    batch_size: int
    batch_tokens: int
    turn_s: float

    def kv_bytes(self, model: str) -> int:
        """What ``kv_tokens`` take in 16 bits."""
        return self.kv_tokens * token_bytes(model_folder(model))

    def words(self) -> list[str]:
        """As a runner takes them."""
        settings = {
            "threads": len(self.cpus),
            "kv-tokens": self.kv_tokens,
            "longest": self.longest,
            "batch-size": self.batch_size,
            "batch-tokens": self.batch_tokens,
        }
        return [f"--{name}={value}" for name, value in settings.items()]


@dataclass(frozen=True, slots=True)
class Engine:
    """How an engine is started."""

    runner: str
    environment: str | None = None
    folder: Callable[[str], Path] = model_folder
    options: tuple[str, ...] = ()
    variables: Callable[[tuple[int, ...]], dict[str, str]] = lambda cpus: {
        "OMP_NUM_THREADS": str(len(cpus))
    }

    @property
    def python(self) -> str:
        """The interpreter: of this process, or of the engine's own environment."""
        if self.environment is None:
            return sys.executable
        return str(BUILD / self.environment / "venv" / "bin" / "python")


def _vllm_variables(cpus: tuple[int, ...]) -> dict[str, str]:
    """What vLLM's documentation asks for: Intel's OpenMP and, where there is one, tcmalloc are
    preloaded; the OpenMP settings are those that vLLM gives workers of its own."""
    preloaded = [str(BUILD / "vllm" / "venv" / "lib" / "libiomp5.so")]
    allocator = find_library("tcmalloc_minimal")
    return {
        "LD_PRELOAD": ":".join(preloaded + ([allocator] if allocator else [])),
        "OMP_NUM_THREADS": str(len(cpus)),
        "KMP_AFFINITY": f"granularity=fine,explicit,proclist=[{','.join(map(str, cpus))}]",
        "KMP_BLOCKTIME": "5",
        "KMP_TPAUSE": "0",
        "VLLM_CACHE_ROOT": str(BUILD / "vllm" / "cache"),
        "VLLM_NO_USAGE_STATS": "1",
    }


ENGINES = {
    "glinthawk": Engine("run_glinthawk.py", variables=lambda cpus: {}),
    "glinthawk-local1": Engine(
        "run_glinthawk.py", options=("--tier2=local:1",), variables=lambda cpus: {}
    ),
    "openvino": Engine("run_openvino.py", "openvino", openvino_folder),
    "vllm": Engine("run_vllm.py", "vllm", variables=_vllm_variables),
    "transformers": Engine("run_transformers.py"),
}


@dataclass(slots=True)
class Running:
    """An engine with a model loaded, waiting for work. Starting it raises EngineFailed."""

    name: str
    model: str
    limits: Limits
    versions: dict[str, str] = field(default_factory=dict)
    _tasted: set[Work] = field(default_factory=set)
    _process: Any = None

    @property
    def started(self) -> bool:
        return self._process is not None

    def start(self) -> "Running":
        engine = ENGINES[self.name]
        if not Path(engine.python).exists():
            raise EngineFailed(f"not installed: run install.py {engine.environment}")
        try:
            folder = engine.folder(self.model)
            self._process = self._spawn(engine, folder)
        except (OSError, subprocess.CalledProcessError) as error:
            raise EngineFailed(str(error)) from error
        self.versions = self._hear()["versions"]
        return self

    def answer(self, work: Work, salt: str) -> dict[str, Any]:
        """Do ``work``, after a taste of it if this process has not done any yet."""
        if work not in self._tasted:
            self._ask(work.taste(), "taste")
            self._tasted.add(work)
        answer = self._ask(work, salt)
        if answer["generated"] != work.new_tokens:
            raise EngineFailed(f"{answer['generated']} tokens came, not {work.new_tokens}")
        return answer

    def stop(self) -> None:
        """End the process and those that it started."""
        if self._process is None:
            return
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        self._kill()

    def _spawn(self, engine: Engine, folder: Path) -> subprocess.Popen[bytes]:
        command = [engine.python, str(_HERE / engine.runner), str(folder)]
        variables = {"HF_HUB_OFFLINE": "1", **engine.variables(self.limits.cpus)}
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [*command, *self.limits.words(), *engine.options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | variables,
                start_new_session=True,
                preexec_fn=lambda: os.sched_setaffinity(0, self.limits.cpus),
            )

    def _ask(self, work: Work, salt: str) -> dict[str, Any]:
        try:
            question = json.dumps({"work": str(work), "salt": salt}) + "\n"
            self._process.stdin.write(question.encode())
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise EngineFailed(self._last_words()) from error
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        """The runner's next line."""
        out = self._process.stdout
        if not select.select([out], [], [], self.limits.turn_s)[0]:
            self._kill()
            raise EngineFailed(f"took longer than {self.limits.turn_s:.0f} s")
        line = out.readline()
        if not line:
            raise EngineFailed(self._last_words())
        return json.loads(line)

    def _last_words(self) -> str:
        status = self._process.wait(_GRACE_S)
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines()]
        return f"exit status {status}: {' '.join([line for line in lines if line][-_LAST_LINES:])}"

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    @property
    def _log(self) -> Path:
        return BUILD / "logs" / f"{self.name}-{self.model}.log"
