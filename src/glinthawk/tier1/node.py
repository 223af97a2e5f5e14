"""A Tier-1 node: takes batches, runs each one's forward pass from attention to attention.

While one batch's rows are attended at their homes, the node runs another batch, or computes
the attention of prompts. One thread does all of it; only ``poll`` ever waits.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import count

import torch
import zmq
from transformers import PreTrainedModel

from glinthawk.core.batch import Batch
from glinthawk.core.errors import UnsupportedModel, WorkerLost
from glinthawk.core.rope import LengthRope
from glinthawk.core.spec import AttentionLayer
from glinthawk.telemetry.trace import Trace
from glinthawk.tier1.device.staging import upload
from glinthawk.tier1.forward.cut import Arguments, Call, Forward, Pass, Passes
from glinthawk.tier1.forward.prompt_attention import PromptAttention, attend_prompts
from glinthawk.tier1.home_poller import HomePoller
from glinthawk.tier1.kv.home import Home, Reply
from glinthawk.tier1.running_batch import AttentionSpeed, RunningBatch

__all__ = ["Node", "Sampler"]

#: How often, in seconds, links are looked at on which nothing comes.
_LOOK_S = 0.5

#: What follows a finished pass: the batch, logits (R, V) of its rows that are ``kept``, and hidden
#: states (P, hidden) of those that are ``pooled``, if any; or, on a pipeline slice before the last,
#: hidden states (T, hidden) of all. It must not keep them: another pass may have the memory next.
Sampler = Callable[[Batch, torch.Tensor, torch.Tensor | None], object]


class Node:
    """Runs the batches of one model. ``layers`` are its attention layers in calling order;
    ``passes`` makes the forward passes (None: as transformers runs them); ``rope`` says by which
    length rows are rotated, where that matters."""

    def __init__(
        self,
        model: PreTrainedModel,
        layers: Sequence[AttentionLayer],
        homes: Sequence[Home],
        sample: Sampler,
        trace: Trace | None = None,
        attend_prompts: PromptAttention = attend_prompts,
        passes: Passes | None = None,
        rope: LengthRope | None = None,
    ) -> None:
        self._device, self._rope = model.device, rope
        self._passes = passes or partial(Pass, model)
        self._layers, self._sample = layers, sample
        self._homes = {home.id: home for home in homes}
        self._running: dict[int, RunningBatch] = {}
        self._trace, self._attend_prompts = trace, attend_prompts
        self._poller = HomePoller()
        self.busy_s = 0.0
        #: How fast each home attended so far.
        self.attention: dict[int, AttentionSpeed] = {}
        self._next_look_s = 0.0
        for home in homes:
            self._poller.add(home)

    @property
    def num_layers(self) -> int:
        """Attention layers of a pass."""
        return len(self._layers)

    @property
    def num_running(self) -> int:
        return len(self._running)

    def start(self, batch: Batch, hidden: torch.Tensor | None = None) -> None:
        """Take a batch; its rows are announced at their homes at once.

        A pipeline slice that is not the first is given its rows' ``hidden`` state (T, hidden).
        """
        running = RunningBatch.begin(batch, self._new_pass(batch, hidden))
        lanes = {other.lane for other in self._running.values()}
        running.lane = next(lane for lane in count() if lane not in lanes)
        self._running[batch.id] = running
        homes = {span.home for span in batch.spans}
        running.is_stuck = not homes <= self._homes.keys()
        for home_id in homes & self._homes.keys():
            self._homes[home_id].begin(
                batch.id,
                [span for span in batch.extends if span.home == home_id],
                [span for span in batch.prompts if span.home == home_id],
            )

    @torch.inference_mode()
    def poll(self, timeout_s: float | None = None) -> list[tuple[Batch, object]]:
        """Run until a batch is done; every done one comes with what ``sample`` made of it. Comes
        back with nothing when a watched socket has something to say, or when it has waited for
        ``timeout_s``, or for some time.

        Raises WorkerError (with the home's number) when a worker goes away or fails, or a message,
        UnsupportedModel when a pass does not call attention once a layer.
        """
        while self._running:
            runnable = [running for running in self._running.values() if self._can_run(running)]
            done = [running for running in self._running.values() if running.is_done]
            is_called = self._collect(not runnable and not done, timeout_s)
            if done:
                return [self._finish(running) for running in done]
            if runnable:
                # Deepest first: the batch nearest to its tokens frees its slot soonest.
                self._advance(max(runnable, key=lambda running: running.forward.depth))
            if is_called:
                break
        return []

    def watch(self, socket: "zmq.Socket[bytes]") -> None:
        """Come back from ``poll`` when ``socket`` is readable."""
        self._poller.watch(socket)

    def release(self, home_id: int, sequences: list[int]) -> None:
        """Forget the KV of ``sequences`` at a home, if it is there."""
        if home_id in self._homes:
            self._homes[home_id].release(sequences)

    def abort(self, batch_id: int) -> None:
        """Stop a batch where it is, if it runs; its spans may be stepped again in another batch."""
        running = self._running.pop(batch_id, None)
        if running is None:
            return
        running.forward.close()
        for home_id in {span.home for span in running.batch.spans} & self._homes.keys():
            self._homes[home_id].abandon(batch_id)

    def lose(self, home_id: int) -> None:
        """A home is gone. Batches with rows there stand still until they are aborted."""
        home = self._homes.pop(home_id)
        self.attention.pop(home_id, None)
        for running in self._running.values():
            running.is_stuck |= any(span.home == home_id for span in running.batch.spans)
        self._poller.remove(home)

    def reset(self) -> None:
        """Forget all batches and homes."""
        for running in self._running.values():
            running.forward.close()
        self._running.clear()
        self._homes.clear()
        self._poller.clear()

    def join(self, home: Home) -> None:
        """A home is there, empty."""
        self._homes[home.id] = home
        self._poller.add(home)

    def _new_pass(self, batch: Batch, hidden: torch.Tensor | None) -> Forward:
        rows, put = batch.rows(), partial(upload, device=self._device)
        ids, positions, keep = map(put, (rows.tokens, rows.positions, rows.kept))
        lengths = None if self._rope is None else put(self._rope.of_batch(batch))
        pooled, adapters = (put(one) if one else None for one in (rows.pooled, rows.adapters))
        return self._passes(ids, positions, keep, hidden, lengths, pooled, adapters)

    def _can_run(self, running: RunningBatch) -> bool:
        """A slow home slows the batches with rows there, and no other ones."""
        return running.can_run and not any(
            self._homes[home_id].is_full for home_id, _ in (*running.extends, *running.prompts)
        )

    def _advance(self, running: RunningBatch) -> None:
        begun = time.perf_counter()
        result = running.forward.resume(running.output)
        if isinstance(result, Call):
            self._answer(running, result)
        elif running.forward.depth != self.num_layers:
            raise UnsupportedModel(
                f"a pass called attention {running.forward.depth} times, not {self.num_layers}"
            )
        else:
            running.result, running.output = result, None
        self._count(running, f"layer {running.forward.depth}", begun)

    def _count(self, running: RunningBatch, what: str, begun: float) -> None:
        seconds = time.perf_counter() - begun
        self.busy_s += seconds
        if self._trace is not None:
            self._trace.add("tier 1", running.lane, what, begun, seconds)

    def _answer(self, running: RunningBatch, call: Call) -> None:
        """Send the extends away first, so that homes work while prompts are attended here."""
        index, step = running.forward.depth, running.batch.id
        layer = self._layers[index]
        q, k, v = (tensor[0].transpose(0, 1) for tensor in (call.queries, call.keys, call.values))
        output = q.new_empty(len(q), layer.num_heads, layer.value_dim)
        running.output = output
        if call.arguments is not None:
            self._show(running, index, call.arguments)
        for home_id, rows in self._remote_first(running.extends):
            begun = time.perf_counter()
            answer = self._homes[home_id].attend(step, index, q[rows], k[rows], v[rows])
            if answer is None:
                running.awaited.add(home_id)
            else:
                output[rows] = answer
                self._measure(running, home_id, time.perf_counter() - begun)
        for home_id, rows in running.prompts:
            kept = self._homes[home_id].store(step, index, k[rows], v[rows])
            if index == 0 and not kept:
                running.unstored.add(home_id)
        self._attend_here(running)
        if running.batch.prompts:
            rows = slice(running.batch.num_extend_tokens, len(q))
            lengths = [span.length for span in running.batch.prompts]
            output[rows] = self._attend_prompts(q[rows], k[rows], v[rows], lengths, layer)

    def _show(self, running: RunningBatch, layer: int, given: Arguments) -> None:
        """Homes with an X-cache take what attention was given, before they are sent anything."""
        extends, prompts = dict(running.extends), dict(running.prompts)
        for home_id in extends.keys() | prompts.keys():
            rows = extends.get(home_id), prompts.get(home_id)
            self._homes[home_id].show(running.batch.id, layer, given, *rows)

    def _attend_here(self, running: RunningBatch) -> None:
        """What homes leave to Tier 1, while workers attend to the rest."""
        for home_id, rows in running.extends:
            answer = self._homes[home_id].attend_here(running.batch.id)
            if answer is not None and running.output is not None:
                running.output[rows] = answer
                running.awaited.discard(home_id)

    def _remote_first(self, extends: list[tuple[int, slice]]) -> list[tuple[int, slice]]:
        return sorted(extends, key=lambda rows: not self._homes[rows[0]].links)

    def _collect(self, wait: bool, timeout_s: float | None) -> bool:
        """Take in what workers answered; with ``wait``, until at least one has, or has taken what
        it was sent, or parcels that were still being copied can leave. Whether something else wants
        to be looked at: a watched socket, or the clock."""
        awaits = any(running.awaited or running.unstored for running in self._running.values())
        is_look_due = time.monotonic() >= self._next_look_s
        may_hear = wait or awaits or self._poller.has_watched or is_look_due
        if self._poller.is_empty or not may_hear:
            return wait
        is_copying = any([home.flush() for home in self._homes.values()])
        timeout_ms = int(1000 * (_LOOK_S if timeout_s is None else min(timeout_s, _LOOK_S)))
        homes = self._homes.values()
        speaking, is_called = self._poller.poll(homes, timeout_ms if wait and not is_copying else 0)
        self._hear(homes if is_look_due else speaking)
        if is_look_due:
            self._check_moving()
        is_late = wait and not is_copying and not speaking
        return is_called or is_late

    def _hear(self, homes: Iterable[Home]) -> None:
        begun = time.perf_counter()
        for home in homes:
            for reply in home.receive():
                self._take(self._running[reply.step], home.id, reply)
        self.busy_s += time.perf_counter() - begun

    def _check_moving(self) -> None:
        """Raises WorkerLost for a home that owes an answer and says that it has given all."""
        self._next_look_s = time.monotonic() + _LOOK_S
        owing: set[int] = set()
        for running in self._running.values():
            # The last layer's prompts have left only when the pass is over.
            owing |= running.awaited if running.result is None else running.unstored
        for home_id in owing & self._homes.keys():
            links = self._homes[home_id].links
            if links and all(link.is_stalled for link in links):
                places = ", ".join(link.channel.address.endpoint for link in links)
                raise WorkerLost(f"an answer of {places} was lost on its way", home=home_id)

    def _take(self, running: RunningBatch, home_id: int, reply: Reply) -> None:
        if reply.output is None:
            running.unstored.discard(home_id)
            return
        if self._trace is not None:  # its own clock is not ours: it ended now at the latest
            begun = time.perf_counter() - reply.seconds
            what = f"attention {running.forward.depth}"
            self._trace.add(f"worker {home_id}", running.lane, what, begun, reply.seconds)
        rows = next(rows for home, rows in running.extends if home == home_id)
        assert running.output is not None
        running.output[rows] = reply.output
        running.awaited.discard(home_id)
        self._measure(running, home_id, reply.seconds)

    def _measure(self, running: RunningBatch, home_id: int, seconds: float) -> None:
        speed = self.attention.setdefault(home_id, AttentionSpeed())
        speed.add(seconds, running.kv_tokens[home_id])

    def _finish(self, running: RunningBatch) -> tuple[Batch, object]:
        begun = time.perf_counter()
        del self._running[running.batch.id]
        for home_id in {span.home for span in running.batch.spans}:
            self._homes[home_id].finish(running.batch.id)
        assert running.result is not None
        sampled = self._sample(running.batch, running.result, running.forward.states)
        running.forward.close()
        self._count(running, "sample", begun)
        return running.batch, sampled
