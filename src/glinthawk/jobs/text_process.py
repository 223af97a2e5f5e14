"""A process that does text work beside Tier 1's thread.

It is forked before the run has threads or a device, so it begins with all libraries loaded, and
loads the tokenizer while the run loads the model. It has no file but its end of a pair of sockets.
When the other end is closed, as by any death of the run, it ends. It holds nothing that could be
lost, so it is killed when it is no longer needed.
"""

import gc
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from typing import NoReturn

from glinthawk.jobs.lines import Refusal, Task
from glinthawk.jobs.text import Text
from glinthawk.jobs.text_work import TextRules, Work, work_on

__all__ = ["TextProcess"]

_STANDARD_FILES = 3


class TextProcess:
    """Forked when it is made: call it while this process has one thread. ``load`` runs there."""

    def __init__(self, load: Callable[[], Text]) -> None:
        self._ours, theirs = Pipe()
        self.pid = os.fork()
        if not self.pid:
            _become(theirs, load)
        theirs.close()
        self.is_alive = True

    def tell(self, rules: TextRules) -> None:
        """What its work depends on; once, before all work."""
        self._exchange(rules)

    def do(self, work: Work) -> list[Task | Refusal | bytes] | None:
        """As ``work_on``. Waits; None if the process cannot say, or has died."""
        return self._exchange(work)

    def kill(self) -> None:
        """End it at once. A call that waits for it elsewhere comes back."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def close(self) -> None:
        """Let go of it, after ``kill``."""
        self._ours.close()

    def _exchange(self, message: object) -> list[Task | Refusal | bytes] | None:
        if self.is_alive:
            try:
                self._ours.send(message)
                answer: list[Task | Refusal | bytes] | None = self._ours.recv()
                return answer
            except (EOFError, OSError):
                self.is_alive = False
        return None


def _become(connection: Connection, load: Callable[[], Text]) -> NoReturn:
    """Serve in the forked process; nothing of what the run would do at its end is done."""
    try:
        # Ctrl-C is for the run, which drains.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _drop_files(connection.fileno())
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        gc.freeze()  # what the run has loaded stays shared
        _serve(connection, load())
    except (EOFError, OSError):
        pass
    finally:
        os._exit(0)


def _drop_files(kept: int) -> None:
    """Above all the output's, whose lock would outlive the run."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(_STANDARD_FILES):
        os.dup2(nothing, number)
    os.closerange(_STANDARD_FILES, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))


def _serve(connection: Connection, text: Text) -> None:
    do = work_on(text, connection.recv())
    connection.send(None)
    while True:
        work = connection.recv()
        try:
            answer = do(work)
        except Exception:
            # The run does it again, and says what is wrong.
            answer = None
        connection.send(answer)
