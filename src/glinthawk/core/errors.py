"""Every error glinthawk raises on purpose. Each message names the next step.

GlinthawkError
├── UsageError               the command or call cannot run as asked; nothing was started
│   ├── ModelError           the model cannot be loaded
│   │   └── UnsupportedModel the model loads but cannot be cut at attention correctly
│   ├── AddressError         an address or key is malformed or not allowed
│   └── JournalError         the output belongs to another model, input or process
├── ServerLost               a server that a job was handed in to does not answer
├── RequestError             one request cannot be answered; the job goes on
└── WorkerError              a Tier-2 worker
    ├── WorkerRefused        it answered that it cannot serve this model or client
    │   ├── WorkerBusy       it serves another run now
    │   └── DriveFailed      a drive with its KV cache failed; it serves nobody until that is mended
    ├── WorkerLost           it died or cannot be reached
    └── WireError            it received or sent a message that does not fit
"""

__all__ = [
    "AddressError",
    "DriveFailed",
    "GlinthawkError",
    "JournalError",
    "ModelError",
    "RequestError",
    "ServerLost",
    "UnsupportedModel",
    "UsageError",
    "WireError",
    "WorkerBusy",
    "WorkerError",
    "WorkerLost",
    "WorkerRefused",
]


class GlinthawkError(Exception):
    """Base of all errors raised on purpose."""


class UsageError(GlinthawkError):
    """The command or call cannot run as asked."""


class ModelError(UsageError):
    """The model cannot be loaded."""


class UnsupportedModel(ModelError):
    """The model cannot be cut at attention with correct answers."""


class AddressError(UsageError):
    """An address or key is malformed or not allowed."""


class JournalError(UsageError):
    """The output file belongs to another model, input or process."""


class ServerLost(GlinthawkError):
    """A server that a job was handed in to does not answer; the job may go on there."""


class RequestError(GlinthawkError):
    """One request cannot be answered. ``param`` names the field at fault, as OpenAI's errors do."""

    def __init__(self, message: str, *, param: str | None = None, code: str = "invalid_request"):
        super().__init__(message)
        self.param = param
        self.code = code


class WorkerError(GlinthawkError):
    """A Tier-2 worker failed. ``home`` is its number in this run."""

    def __init__(self, message: str, *, home: int | None = None):
        super().__init__(message)
        self.home = home


class WorkerRefused(WorkerError):
    """The worker answered that it cannot serve this model or this client."""


class WorkerBusy(WorkerRefused):
    """It serves another run now."""


class DriveFailed(WorkerRefused):
    """A drive with the worker's KV cache failed; it serves nobody until that is mended."""


class WorkerLost(WorkerError):
    """The worker died or cannot be reached."""


class WireError(WorkerError):
    """A message does not fit what both sides agreed on."""
