"""A slice of a model that is open at a node: what an engine and the node before it say is done."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from glinthawk.core.batch import Batch, Span
from glinthawk.core.errors import WireError, WorkerLost
from glinthawk.core.sequence import Sequence as TokenSequence
from glinthawk.engine.node_opening import OpenNode
from glinthawk.engine.tier import Done
from glinthawk.scheduler.commands import HomeJoined, HomeLeaving, HomeLost
from glinthawk.wire.address import Address
from glinthawk.wire.client_channel import ClientChannel
from glinthawk.wire.control import (
    AskGlance,
    Cancel,
    Failed,
    Fates,
    Forget,
    Glanced,
    Going,
    Gone,
    Hidden,
    HomeAtNode,
    Lose,
    Moved,
    RunStep,
    SampledStep,
    StepRow,
    Used,
)
from glinthawk.wire.messages import Ask, Message

__all__ = ["LOOK_S", "LinkLost", "OpenSlice"]

#: How often, in seconds, a node without work looks at homes that may come back.
LOOK_S = 0.1


class LinkLost(Exception):
    """The link to the node behind is gone."""


class OpenSlice:
    """An open slice: mirrors of the sequences, steps that wait for their hidden state, a node."""

    def __init__(
        self,
        opened: OpenNode,
        following: ClientChannel | None,
        tell: Callable[[Message], None],
    ) -> None:
        self._node, self._loaded = opened.node, opened.loaded
        self._following, self._tell = following, tell
        self._sequences: dict[int, TokenSequence] = {}
        self._waiting: dict[int, Batch] = {}
        self._hidden: dict[int, torch.Tensor] = {}
        #: Whose KV is to be freed once steps that were announced before, and share its pages, have
        #: begun: (the last step before it, those steps, it). Later steps may need the pages.
        self._late: list[tuple[int, set[int], Forget]] = []
        self._last_step = -1
        self._told = Fates({}, [])
        for home in self._node.homes():
            tell(_joined(home))

    @property
    def num_running(self) -> int:
        return self._node.num_running

    @property
    def is_expecting(self) -> bool:
        return self._node.is_expecting

    @property
    def has_link(self) -> bool:
        """Whether there is a node behind."""
        return self._following is not None

    @property
    def is_idle(self) -> bool:
        """Whether all that is to be done here is done, and has reached the node behind."""
        is_settled = self._following is None or self._following.is_settled
        return not self._node.num_running and is_settled

    def handle(self, message: Message, frames: Sequence[memoryview]) -> None:
        match message:
            case RunStep():
                self._run(message)
            case Hidden(step):
                self._receive(step, frames)
            case Forget():
                for sequence in message.sequences:
                    self._sequences.pop(sequence, None)
                self._late.append((self._last_step, self._sharers(message), message))
                self._forget_late()
            case Cancel(step):
                self._hidden.pop(step, None)
                if self._waiting.pop(step, None) is None:
                    self._node.abort(step)
                self._forget_late(step)
            case Lose(home):
                for number in [s.id for s in self._sequences.values() if s.home == home]:
                    del self._sequences[number]
                self._node.lose(home)
            case Moved(old, new):
                self._node.move(Address.parse(old), Address.parse(new))
            case Ask():
                self._tell(Used(self._node.usage()))
            case AskGlance():
                self._tell(Glanced(self._node.glance()))

    def advance(self, timeout_s: float | None) -> None:
        """Run until something has happened here or an engine calls. Raises LinkLost. While as much
        as may be is on its way to the node behind, nothing runs that would add to it."""
        self._check_link()
        if self._following is not None and not self._following.window.has_room():
            self._following.wait(LOOK_S)
            return
        for event in self._node.poll(timeout_s):
            match event:
                case Done() as done:
                    self._pass_on(done)
                case HomeLost(home):
                    self._tell(Gone(home))
                case HomeLeaving(home):
                    self._tell(Going(home))
                case HomeJoined() as joined:
                    self._tell(_joined(joined))
        self._tell_fates()

    def _tell_fates(self) -> None:
        fates = self._node.fates()
        words = {home: fate.words for home, fate in fates.items()}
        news = Fates(words, [home for home, fate in fates.items() if fate.is_over])
        if news != self._told:
            self._told = news
            self._tell(news)

    def _run(self, message: RunStep) -> None:
        self._last_step = message.step
        for step in [step for step in self._hidden if step < message.step]:
            del self._hidden[step]  # cancelled before this slice was loaded
        for admitted in message.admitted:
            sequence = TokenSequence(admitted.request, admitted.sequence, list(admitted.output))
            self._sequences[sequence.id] = sequence
        batch = Batch(
            message.step,
            tuple(map(self._span, message.extends)),
            tuple(map(self._span, message.prompts)),
        )
        if self._loaded.part.is_first:
            self._node.start(batch)
        else:
            self._waiting[batch.id] = batch
            self._start_if_ready(batch.id)

    def _span(self, row: StepRow) -> Span:
        sequence = self._sequences.get(row.sequence)
        if sequence is None:
            raise WireError(f"nobody has told of sequence {row.sequence}")
        sequence.home = row.home
        sequence.output += row.tokens
        where = row.home, row.start, row.length, row.source
        return Span(sequence, *where, row.num_sampled, row.num_scored, row.num_pooled, row.draft)

    def _receive(self, step: int, frames: Sequence[memoryview]) -> None:
        if step <= self._last_step and step not in self._waiting:
            return  # it was cancelled on the way
        dtype, size = self._loaded.model.dtype, self._loaded.hidden_size
        if len(frames) != 1 or frames[0].nbytes % (size * dtype.itemsize):
            raise WireError("a hidden state of another size; do all nodes run one model?")
        hidden = torch.frombuffer(frames[0], dtype=dtype).view(-1, size)
        self._hidden[step] = hidden.to(self._loaded.model.device)
        self._start_if_ready(step)

    def _start_if_ready(self, step: int) -> None:
        is_held = bool(self._late) and self._late[0][0] < step
        if step in self._waiting and step in self._hidden and not is_held:
            hidden, batch = self._hidden.pop(step), self._waiting.pop(step)
            if len(hidden) != batch.num_tokens:
                raise WireError(f"step {step} has {batch.num_tokens} rows, not {len(hidden)}")
            self._node.start(batch, hidden)
            self._forget_late(step)

    def _sharers(self, message: Forget) -> set[int]:
        """Steps that wait, and will share pages of what is to be forgotten."""
        gone = {*message.sequences}
        return {
            step
            for step, batch in self._waiting.items()
            if any(span.source in gone for span in batch.spans)
        }

    def _forget_late(self, begun: int | None = None) -> None:
        """Forget, in the order in which that was said, what no step waits to share any more; step
        ``begun`` does not wait now."""
        for _, steps, _ in self._late:
            steps.discard(begun if begun is not None else -1)
        if not self._late or self._late[0][1]:
            return
        while self._late and not self._late[0][1]:
            _, _, message = self._late.pop(0)
            self._node.release(message.home, message.sequences)
        for step in sorted(self._waiting):
            self._start_if_ready(step)

    def _check_link(self) -> None:
        """The node behind has nothing to say, unless it refuses what it is sent; what else comes is
        news of the connection."""
        if self._following is not None:
            with _naming_link():
                while (received := self._following.receive()) is not None:
                    if isinstance(received[0], Failed):
                        raise WorkerLost(received[0].text)

    def _pass_on(self, done: Done) -> None:
        number, result = done.batch.id, done.sampled
        if self._following is not None:
            hidden: Any = result
            with _naming_link():
                self._following.send(Hidden(number), [hidden])
            return
        tokens = [[choice.token for choice in choices] for choices in result]
        logprobs = [[choice.logprobs for choice in choices] for choices in result]
        self._tell(SampledStep(number, tokens, logprobs, list(done.scores), tuple(done.pooled)))


@contextmanager
def _naming_link() -> Iterator[None]:
    try:
        yield
    except WorkerLost as error:
        raise LinkLost(f"the next node is lost: {error}") from error


def _joined(home: HomeJoined) -> HomeAtNode:
    return HomeAtNode(
        home.home, home.num_pages, home.page_tokens, home.most_sequences or home.num_pages
    )
