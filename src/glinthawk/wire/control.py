"""What an engine and the nodes of a pipeline say to each other: a few messages a step.

The engine opens each node with its slice (``LoadSlice``) and then tells every node the same, in the
same order: sequences once, then for each step its rows and the tokens that nodes have not seen. A
node gives its hidden state to the next one (``Hidden``, with a frame of (T, hidden) elements),
never to the engine; the last one answers with tokens. The link between two nodes begins with
``Follow``."""

import msgspec

from glinthawk.core.config import EngineConfig
from glinthawk.core.prompt_scores import PromptScores
from glinthawk.core.rope import LengthRope
from glinthawk.core.sequence import Request, TokenLogprobs
from glinthawk.core.slices import LayerSlice
from glinthawk.telemetry.reading import Glance
from glinthawk.telemetry.usage import Usage
from glinthawk.wire.messages import Ask, Bye, Message, Ping

__all__ = [
    "Admitted",
    "AskGlance",
    "Cancel",
    "Failed",
    "Fates",
    "Follow",
    "Forget",
    "FromEngine",
    "FromNode",
    "Glanced",
    "Going",
    "Gone",
    "Hidden",
    "HomeAtNode",
    "LoadSlice",
    "Loaded",
    "Lose",
    "Moved",
    "RunStep",
    "SampledStep",
    "StepRow",
    "Unlinked",
    "Used",
]


class LoadSlice(Message, frozen=True):
    """Become the node of this slice; its workers are ``config.tier2``. ``next`` is the address of
    the node behind, None for the last. ``run`` is the engine's own name, ``attempt`` how often it
    has said this to this node."""

    version: int
    config: EngineConfig
    part: LayerSlice
    next: str | None
    run: str = ""
    attempt: int = 0


class Admitted(msgspec.Struct, frozen=True, array_like=True):
    """A sequence that nodes have not seen, with the tokens it has."""

    sequence: int
    request: Request
    output: list[int]


class StepRow(msgspec.Struct, frozen=True, array_like=True):
    """A span of a step, and the sequence's tokens that nodes have not seen. Those of ``draft`` are
    guessed: it may come to have others."""

    sequence: int
    home: int
    start: int
    length: int
    source: int | None
    tokens: list[int]
    num_sampled: int
    num_scored: int
    draft: tuple[int, ...] = ()
    num_pooled: int = 0


class RunStep(Message, frozen=True):
    """Take a step with these rows, those that extend first."""

    step: int
    admitted: list[Admitted]
    extends: list[StepRow]
    prompts: list[StepRow]


class Forget(Message, frozen=True):
    """Free the KV of these sequences at a home, and forget them."""

    home: int
    sequences: list[int]


class Cancel(Message, frozen=True):
    """Stop a step where it is."""

    step: int


class Lose(Message, frozen=True):
    """A home is lost, here or at another node, or empty and about to go: forget all that it held,
    then let it join again."""

    home: int


class Moved(Message, frozen=True):
    """A worker that was at one address listens at the other now."""

    old: str
    new: str


class Follow(Message, frozen=True):
    """From node to node, once: hidden states of this run come from here, no more from earlier
    attempts."""

    run: str
    attempt: int


class Hidden(Message, frozen=True):
    """From node to node: the hidden state of a step's rows."""

    step: int


class HomeAtNode(Message, frozen=True):
    """A home is there, empty."""

    home: int
    num_pages: int
    page_tokens: int
    most_sequences: int


class Loaded(Message, frozen=True):
    """The slice is ready; its homes follow. Times are of a step, see ``scheduler.step_cost``."""

    max_model_len: int
    vocab_size: int
    dtype: str
    batch_size: int
    #: (rows, seconds) of its part of a step without attention; empty where nothing was measured.
    dense: tuple[tuple[int, float], ...]
    link_s: float
    #: What the bits of a batch-invariant run's answers depend on.
    arithmetic: str = ""
    longest_len: int = 0
    #: (rows, seconds) of its part of a step, if drafts are to be as long as they pay.
    draft_s: tuple[tuple[int, float], ...] | None = None
    #: To its workers and back over its layers, where that is said.
    draft_link_s: float = 0.0
    #: How rows are rotated, where that depends on their sequence's length.
    rope: LengthRope | None = None


class SampledStep(Message, frozen=True):
    """A step is taken: the tokens of every span, what was asked to be said about them, and about
    tokens of prompts."""

    step: int
    tokens: list[list[int]]
    logprobs: list[list[TokenLogprobs | None]]
    #: Of those spans of which rows were scored.
    scores: list[PromptScores]
    #: Of those spans of which rows were pooled, what was added up: float64.
    pooled: tuple[bytes, ...] = ()


class Going(Message, frozen=True):
    """A worker of a home wants to go: it is done with ``Lose`` when nobody's KV is there."""

    home: int


class Gone(Message, frozen=True):
    """A home is lost; nothing runs there until ``Lose``."""

    home: int


class Fates(Message, frozen=True):
    """What workers that the node has started said last, by the home that they are lost with, in
    place of what was told before; and which homes do not come back."""

    words: dict[int, str]
    over: list[int]


class Unlinked(Message, frozen=True):
    """The link to the node behind is lost, and what was under way on it. The slice is closed."""

    text: str


class Used(Message, frozen=True):
    """The answer to Ask."""

    usage: Usage


class AskGlance(Message, frozen=True):
    """Ask for Glanced, which costs a node nothing."""


class Glanced(Message, frozen=True):
    """What it has done so far."""

    glance: Glance


class Failed(Message, frozen=True):
    """The node cannot do what it was asked. ``kind`` is the error's class."""

    kind: str
    text: str


FromEngine = (
    LoadSlice | RunStep | Forget | Cancel | Lose | Moved | Ask | AskGlance | Bye | Follow | Hidden
)
FromNode = (
    Loaded
    | HomeAtNode
    | SampledStep
    | Going
    | Gone
    | Fates
    | Unlinked
    | Used
    | Glanced
    | Failed
    | Ping
)
