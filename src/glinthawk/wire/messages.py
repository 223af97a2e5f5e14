"""The wire is one closed union: every message between Tier 1 and a Tier-2 worker.

Tier 1 opens a session with the model's attention layers. Each step begins with the rows that the
worker holds (``Begin``); then every layer sends one ``Attend`` parcel (frames q, k, v of the rows
that are attended there; the answer ``Attended`` carries o) and, when the step has prompts, one
``Store`` parcel (frames k, v; the last layer's is acknowledged by ``Stored``). So the rows travel
once a step and a layer's parcel is nothing but a few bytes and its tensors.

Frames are raw little-endian elements, row-major: q (T, H, D), k (T, K, D), v (T, K, Dv),
o (T, H, Dv), in the session's ``wire_dtype``.

A worker may keep only some tokens of each sequence, with other workers that keep the rest. Such a
session is opened with ``views``. Steps begin with ``BeginPart``: its ``extends`` say whose k, v are
kept here, and its views which rows attend to what, kept here now or before. A layer's ``Attend``
has q of the rows in the layer's view, k and v only if any are kept, and is sent only if the view
has rows; ``Attended`` carries o and a frame of log-sum-exps (T, H) in float32, which Tier 1 merges.

Tier 1 may also attend by itself: in place of ``Attend`` it sends ``Fetch`` (frames k, v), and
``Fetched`` carries the KV pages that the rows see in this layer: a frame of pages (U, unit bytes),
each once and packed as the native kernels lay them out, and one that says which of those each page
of each row is, rows in order (P,) int32. Pages before all that a row's window shows are left out.

In the header frame, each message has its number before it; beats (``tally.py``) and word of what
was taken (``credit.py``) go between.

What Tier 1 says may hold any numbers, which the worker's session checks against what it knows; what
a worker has counted is checked here.
"""

from functools import cache
from typing import Annotated, Any

import msgspec

from glinthawk.core.errors import WireError
from glinthawk.core.spec import AttentionLayer

__all__ = [
    "VERSION",
    "Abandon",
    "Announce",
    "Ask",
    "Attend",
    "Attended",
    "Begin",
    "BeginPart",
    "Bye",
    "Fault",
    "Fetch",
    "Fetched",
    "FromJoiner",
    "FromTier1",
    "FromWorker",
    "Leaving",
    "Message",
    "Open",
    "Opened",
    "Ping",
    "ReleaseKV",
    "Spans",
    "Stats",
    "Store",
    "Stored",
    "View",
    "decode",
    "encode",
]

#: Both ends must be of the same version; an older worker refuses by name, it never guesses.
VERSION = 14

#: What a worker counted.
_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
_Size = Annotated[int, msgspec.Meta(ge=1, le=(1 << 31) - 1)]


class Message(msgspec.Struct, frozen=True, array_like=True, tag=str.lower, omit_defaults=True):
    """Arrays instead of maps on the wire: field names would outweigh the fields."""


class Spans(msgspec.Struct, frozen=True, array_like=True):
    """New tokens of some sequences; three lists of one length."""

    sequences: list[int]
    starts: list[int]
    lengths: list[int]


class View(msgspec.Struct, frozen=True, array_like=True):
    """Rows that attend, each to tokens [first, end) of those that the worker keeps of a sequence,
    counted without gaps; three lists of one length."""

    sequences: list[int]
    firsts: list[int]
    ends: list[int]


class Open(Message, frozen=True):
    """Begin a session: the worker gives all its KV memory to this model.

    ``views`` says for each layer by which view of a step its rows attend; such layers have neither
    windows, which are in the views, nor sinks, which belong to no part. Without views, rows attend
    to all of their sequence.

    ``fetches``: the client will ``Fetch``; a worker that cannot answer that refuses now.
    """

    version: int
    layers: list[AttentionLayer]
    wire_dtype: str
    kv_dtype: str
    views: list[int] = []
    fetches: bool = False


class Begin(Message, frozen=True):
    """The rows of one step, in the order in which every layer's frames hold them.

    ``extends`` continue what the worker holds, mostly by one token, and are attended there;
    ``prompts`` are only kept. A fork (source, sequence, n) lets a new sequence begin with the first
    n tokens of another; it is one of the step's. A sequence is in one step at a time.
    """

    step: int
    extends: Spans
    prompts: Spans
    forks: list[tuple[int, int, int]] = []


class BeginPart(Begin, frozen=True):
    """The rows of one step at a worker that keeps some tokens of each sequence; positions count
    only those. No views: no row attends here. A fork need not be one of the step's."""

    views: list[View] = []


class Attend(Message, frozen=True):
    """Keep k, v of the step's extends in one layer and attend. Frames q, k, v."""

    step: int
    layer: int


class Fetch(Message, frozen=True):
    """Keep k, v of the step's extends in one layer, and answer the pages that they see there.
    Frames k, v."""

    step: int
    layer: int


class Store(Message, frozen=True):
    """Keep k, v of the step's prompts in one layer. Frames k, v."""

    step: int
    layer: int


class ReleaseKV(Message, frozen=True):
    """Forget these sequences, none of which may be in a step."""

    sequences: list[int]


class Abandon(Message, frozen=True):
    """Forget a step that will not be finished; what it kept is written again or released."""

    step: int


class Ask(Message, frozen=True):
    """Ask for Stats."""


class Bye(Message, frozen=True):
    """End the session; its memory is free for the next client."""


class Opened(Message, frozen=True):
    """The session stands, for so many sequences at one time. ``kernel`` attends: the same one comes
    to the same bits."""

    num_pages: _Size
    page_tokens: _Size
    threads: _Count
    most_sequences: _Size
    kernel: str = ""


class Attended(Message, frozen=True):
    """Attention output of the step's extends in one layer. Frame o. It took ``us`` microseconds."""

    step: int
    layer: int
    us: _Count


class Fetched(Message, frozen=True):
    """Pages that the step's extends see in one layer. Frames pages, places. It took ``us``
    microseconds."""

    step: int
    layer: int
    us: _Count


class Stored(Message, frozen=True):
    """All layers of the step's prompts are kept."""

    step: int


class Stats(Message, frozen=True):
    """What the worker did in this session."""

    busy_s: _Seconds
    kv_bytes_peak: _Count


class Fault(Message, frozen=True):
    """The worker could not do what a message asked. It goes on serving."""

    text: str
    refused: bool = False


class Leaving(Message, frozen=True):
    """The worker wants to go when nobody's KV is here any more; it does all that it is asked until
    Bye."""


class Announce(Message, frozen=True):
    """From a worker to a run that it would join, and again as long as it serves nobody: where it
    listens, its key included."""

    version: int
    address: str


class Ping(Message, frozen=True):
    """Are you there? Needs no answer: sending it fails when the client has gone."""


FromTier1 = Open | Begin | BeginPart | Attend | Fetch | Store | ReleaseKV | Abandon | Ask | Bye
FromWorker = Opened | Attended | Fetched | Stored | Stats | Fault | Leaving | Ping
FromJoiner = Announce | Bye

_encoder = msgspec.msgpack.Encoder()


def encode(message: Message) -> bytes:
    """One header frame."""
    return _encoder.encode(message)


def decode(header: bytes | memoryview, side: object) -> Message:
    """The message in ``header``; ``side`` is the union of those that may come, such as FromTier1.
    Raises WireError."""
    try:
        message: Message = _decoder(side).decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"this is not a message of wire version {VERSION}: {error}") from error
    return message


@cache
def _decoder(side: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(side)
