"""A client that does what it should, message by message, so that others can come between."""

from collections.abc import Callable, Iterator

from glinthawk.core.spec import AttentionLayer
from glinthawk.wire.messages import (
    VERSION,
    Attend,
    Attended,
    Begin,
    FromTier1,
    FromWorker,
    Open,
    ReleaseKV,
    Spans,
    Store,
)
from worker_talk import NONE, Talk

__all__ = ["LAYERS", "PAGES", "Ask", "Heard", "Said", "answers", "conversation"]

LAYERS = (
    AttentionLayer(4, 2, 8, 16, 0.4),
    AttentionLayer(4, 2, 8, 16, 0.4, window=3, softcap=5.0, sinks=(0.0, 1.0, -1.0, 0.5)),
)
PAGES = 24
_PROMPTS = {7: 5, 8: 9, 9: 3}
_TOKENS = 4

#: A message and its frames.
Said = tuple[FromTier1, list[bytes]]
#: An answer, or (step, layer) of an Attended, whose time differs; and its frames.
Heard = tuple[object, list[bytes]]
#: Says a message, and returns the answer and its frames; None where there is none.
Ask = Callable[[FromTier1, list[bytes]], tuple[FromWorker, list[bytes]] | None]


def conversation() -> Iterator[Said]:
    """Three prompts in one step, then steps of all three; one ends early, another takes its pages.

    No sequence grows beyond its first page, so pages that others take are not missed.
    """
    talk = Talk(LAYERS)
    yield Open(VERSION, list(LAYERS), "float32", "float32"), []
    yield Begin(0, NONE, Spans(list(_PROMPTS), [0] * 3, list(_PROMPTS.values()))), []
    for layer in range(len(LAYERS)):
        yield Store(0, layer), talk.frames(layer, 1, sum(_PROMPTS.values()))[1:]
    living = list(_PROMPTS)
    for step in range(1, _TOKENS + 1):
        if step == _TOKENS // 2:
            living.remove(9)
            yield ReleaseKV([9]), []
        starts = [_PROMPTS[sequence] + step - 1 for sequence in living]
        yield Begin(step, Spans(living.copy(), starts, [1] * len(living)), NONE), []
        for layer in range(len(LAYERS)):
            yield Attend(step, layer), talk.frames(layer, 10 + step, len(living))


def answers(ask: Ask, disturb: Callable[[], None] = lambda: None) -> list[Heard | None]:
    """What comes back, times left out, with ``disturb`` called before each message."""
    heard: list[Heard | None] = []
    for message, frames in conversation():
        disturb()
        answer = ask(message, frames)
        if answer is None:
            heard.append(None)
        else:
            said, parts = answer
            timeless = (said.step, said.layer) if isinstance(said, Attended) else said
            heard.append((timeless, parts))
    return heard
