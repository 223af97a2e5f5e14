"""A Tier-2 worker: messages in, answers out. One session at a time owns all of its KV memory."""

import logging
import time
from collections.abc import Callable, Sequence

import torch

from glinthawk.core.errors import DriveFailed, GlinthawkError, WireError, WorkerRefused
from glinthawk.core.units import format_size
from glinthawk.tier2.layer_checks import check_layers
from glinthawk.tier2.pages.page_files import PageFile
from glinthawk.tier2.session import Session
from glinthawk.wire.messages import (
    VERSION,
    Abandon,
    Ask,
    Attend,
    Attended,
    Begin,
    Bye,
    Fault,
    Fetch,
    Fetched,
    FromTier1,
    FromWorker,
    Leaving,
    Open,
    Opened,
    ReleaseKV,
    Stats,
    Store,
    Stored,
    decode,
)

__all__ = ["Answer", "Worker"]

_log = logging.getLogger(__name__)

Answer = tuple[FromWorker, Sequence[memoryview]]


class Worker:
    """Answers the messages of one client at a time; no message can stop it.

    ``is_present`` asks the channel whether a client is still connected: a session whose client has
    gone is given up when the next client opens one. ``device`` is where the KV cache lies, but for
    what is in ``files``: when their drive has failed, no session is opened any more.
    """

    def __init__(
        self,
        kv_bytes: int,
        is_present: Callable[[bytes], bool],
        device: torch.device | str = "cpu",
        files: Sequence[PageFile] = (),
    ) -> None:
        self._kv_bytes = kv_bytes
        self._device = device
        self._files = files
        self._failure: DriveFailed | None = None
        self._is_present = is_present
        self._owner: bytes | None = None
        self._session: Session | None = None
        self._busy_s = 0.0
        self._is_leaving = False

    @property
    def is_free(self) -> bool:
        """Whether nobody has a session here who is still connected."""
        return self._owner is None or not self._is_present(self._owner)

    @property
    def is_empty(self) -> bool:
        """Whether nobody's KV is here."""
        return self._session is None or not self._session.cache.pages.num_used

    def leave(self) -> tuple[bytes, Leaving] | None:
        """From now on, take no new client; what to tell the one there is, and which."""
        self._is_leaving = True
        return None if self._owner is None else (self._owner, Leaving())

    def handle(self, client: bytes, frames: Sequence[memoryview]) -> Answer | None:
        """The answer to one message of ``client``, if it has one. Never raises for bad input."""
        begun = time.perf_counter()
        try:
            message = decode(frames[0], FromTier1) if frames else None
            if message is None:
                raise WireError("an empty message")
            return self._dispatch(client, message, frames[1:])  # type: ignore[arg-type]
        except GlinthawkError as error:
            self._failure = error if isinstance(error, DriveFailed) else self._failure
            return Fault(str(error), refused=isinstance(error, WorkerRefused)), ()
        except (RuntimeError, MemoryError) as error:
            return Fault(f"the arithmetic failed ({error}); send smaller parcels"), ()
        except Exception as error:
            # Whatever was overlooked costs the session, whose state nobody knows, not the worker.
            _log.exception("a message that nobody foresaw")
            self._session = self._owner = None
            return Fault(f"the session ended unexpectedly ({error!r})"), ()
        finally:
            self._busy_s += time.perf_counter() - begun

    def _dispatch(
        self, client: bytes, message: FromTier1, frames: Sequence[memoryview]
    ) -> Answer | None:
        if isinstance(message, Open):
            return self._open(client, message), ()
        session = self._session
        if session is None or client != self._owner:
            raise WorkerRefused("there is no session of yours here; open one first")
        match message:
            case Begin():
                session.begin(message)
            case Attend(step, layer):
                begun = time.perf_counter()
                answer = session.attend(message, frames)
                us = int(1e6 * (time.perf_counter() - begun))
                return Attended(step, layer, us), [_tensor_bytes(tensor) for tensor in answer]
            case Fetch(step, layer):
                begun = time.perf_counter()
                answer = session.fetch(message, frames)
                us = int(1e6 * (time.perf_counter() - begun))
                return Fetched(step, layer, us), [_tensor_bytes(tensor) for tensor in answer]
            case Store(step):
                return (Stored(step), ()) if session.store(message, frames) else None
            case ReleaseKV(sequences):
                session.release(sequences)
            case Abandon(step):
                session.abandon(step)
            case Ask():
                return Stats(self._busy_s, session.cache.peak_bytes), ()
            case Bye():
                self._session = self._owner = None
        return None

    def _open(self, client: bytes, message: Open) -> Opened:
        if message.version != VERSION:
            raise WorkerRefused(
                f"this worker speaks wire version {VERSION}, the client {message.version}; "
                "install the same glinthawk on both machines"
            )
        if self._is_leaving:
            raise WorkerRefused("this worker is about to end; start another one")
        if self._failure is not None:
            raise self._failure
        if self._owner not in (None, client) and self._is_present(self._owner):
            raise WorkerRefused("this worker serves another run; wait for it or start a second one")
        check_layers(message)
        self._session = self._owner = None  # the old session's memory goes before the new one's
        try:
            self._session = Session(message, self._kv_bytes, self._device, self._files)
        except (RuntimeError, MemoryError) as error:
            raise WorkerRefused(
                f"this machine cannot give {format_size(self._kv_bytes)} of memory ({error}); "
                "start the worker with a smaller --kv, or the run with a smaller --worker-kv"
            ) from error
        self._owner = client
        self._busy_s = 0.0
        cache = self._session.cache
        pages = cache.pages
        return Opened(
            pages.num_pages,
            pages.page_tokens,
            torch.get_num_threads(),
            cache.most_sequences,
            cache.kernel,
        )


def _tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a CPU tensor, without a copy where it is contiguous."""
    return tensor.contiguous().view(torch.uint8).numpy().data.cast("B")
