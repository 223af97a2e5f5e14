"""Everything a run needs, opened in order and closed whatever happens."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from glinthawk.core.config import PAGE_TOKENS, EngineConfig
from glinthawk.core.errors import WorkerLost
from glinthawk.core.limits import Limits
from glinthawk.core.spec import ModelSpec
from glinthawk.runtime.engine import Engine
from glinthawk.runtime.tuning import Tuning, choose_prompt_attention, tune
from glinthawk.runtime.workers import LocalWorkers, parse_tier2
from glinthawk.telemetry.stats import RunStats
from glinthawk.telemetry.trace import Trace
from glinthawk.tier1.check import check_cut
from glinthawk.tier1.cut import Passes
from glinthawk.tier1.graphs import GraphedPasses
from glinthawk.tier1.homes import Home, LocalHome, RemoteHome
from glinthawk.tier1.loader import LoadedModel, load_model
from glinthawk.tier1.node import Node
from glinthawk.tier1.prompts import PromptAttention, attend_prompts
from glinthawk.tier1.recording import CudaRecorder
from glinthawk.tier1.sampler import sample_batch
from glinthawk.tier2.cache import KVCache
from glinthawk.wire.address import Address
from glinthawk.wire.channel import ClientChannel
from glinthawk.wire.keys import Identity

__all__ = ["Run", "assemble", "open_run", "share_threads"]

_START_S = 120.0
_ANSWER_S = 15.0
#: How often a starting worker's process is looked at.
_LOOK_S = 0.2
#: Pages that the self-check's three short sequences fit in.
_CHECK_PAGES = 8


@dataclass(frozen=True, slots=True)
class Run:
    """An engine with its model, homes and limits."""

    engine: Engine
    spec: ModelSpec
    limits: Limits
    kv_dtype: str
    tuning: Tuning
    node: Node
    homes: tuple[Home, ...]
    began: float

    def stats(self) -> RunStats:
        """What each tier did so far."""
        elapsed = time.perf_counter() - self.began
        remote = [home for home in self.homes if isinstance(home, RemoteHome)]
        scheduler = self.engine.scheduler
        answers = [home.ask(_ANSWER_S) for home in remote if home.id in scheduler.homes]
        local = [home.peak_bytes for home in self.homes if isinstance(home, LocalHome)]
        return RunStats(
            seconds=elapsed,
            tier1_busy=self.node.busy_s / elapsed,
            tier2_busy=[answer.busy_s / elapsed for answer in answers],
            wire_decode_bytes_out=sum(home.traffic.decode_bytes_out for home in remote),
            wire_decode_bytes_back=sum(home.traffic.decode_bytes_back for home in remote),
            wire_prefill_bytes=sum(home.traffic.prefill_bytes for home in remote),
            kv_bytes_peak=sum(answer.kv_bytes_peak for answer in answers) + sum(local),
            preemptions=scheduler.num_preemptions,
            prompt_tokens_shared=scheduler.num_shared_tokens,
            kv_full_share=scheduler.num_cramped / max(1, scheduler.num_batches),
            input_share=self.engine.input_s / elapsed,
        )


@contextmanager
def open_run(config: EngineConfig, trace: Trace | None = None) -> Iterator[Run]:
    """Start workers, load and check the model, open a session at every home.

    Raises UsageError or WorkerError; then nothing is left behind.
    """
    num_local, addresses = parse_tier2(config.tier2)
    tier1_threads, worker_threads = share_threads(num_local)
    torch.set_num_threads(tier1_threads)
    with ExitStack() as stack:
        workers = stack.enter_context(
            LocalWorkers(num_local, config.worker_kv_bytes, worker_threads)
        )
        reached = _reach(stack, config, addresses)
        loaded = load_model(config)
        kv_dtype = loaded.spec.dtype if config.kv_dtype == "auto" else config.kv_dtype
        attention = choose_prompt_attention(loaded)
        passes = _choose_passes(config, loaded)
        _self_check(loaded, attention, passes)
        local = [_connect(config, address) for address in workers.addresses]
        channels = [*reached, *local]
        homes = _open_homes(stack, config, loaded, kv_dtype, workers, channels)
        yield assemble(config, loaded, kv_dtype, homes, trace, attention, passes)


def share_threads(num_local: int) -> tuple[int, int]:
    """Threads of Tier 1 and of each local worker: this machine's cores, shared equally."""
    cores = len(os.sched_getaffinity(0))
    each = max(1, cores // (num_local + 1))
    return max(1, cores - num_local * each), each


def _reach(stack: ExitStack, config: EngineConfig, addresses: list[Address]) -> list[ClientChannel]:
    """Connect to the workers given by address, before any time is spent on the model."""
    channels = [stack.enter_context(_connect(config, address)) for address in addresses]
    for channel in channels:
        channel.reach(_ANSWER_S)
    return channels


def _connect(config: EngineConfig, address: Address) -> ClientChannel:
    identity = None
    if address.scheme == "tcp":
        identity = Identity.load(Path(config.identity) if config.identity else None)
    return ClientChannel(address, identity, config.worker_timeout)


def _choose_passes(config: EngineConfig, loaded: LoadedModel) -> Passes | None:
    """On a GPU, small passes are replayed."""
    device = loaded.model.device
    if config.dense == "plain" or device.type != "cuda":
        return None
    return GraphedPasses(loaded.model, CudaRecorder(device), loaded.part)


def _self_check(loaded: LoadedModel, attention: PromptAttention, passes: Passes | None) -> None:
    """In the model's own type: what a smaller KV type rounds away is the user's choice."""
    spec = loaded.spec
    page_bytes = PAGE_TOKENS * spec.kv_bytes_per_token(spec.dtype)
    cache = KVCache(spec.layers, _CHECK_PAGES * page_bytes, spec.dtype, loaded.model.device)
    check_cut(loaded.model, spec, LocalHome(0, cache), loaded.truth, attention, passes)


def _open_homes(
    stack: ExitStack,
    config: EngineConfig,
    loaded: LoadedModel,
    kv_dtype: str,
    workers: LocalWorkers,
    channels: list[ClientChannel],
) -> list[Home]:
    """Home 0 is Tier 1 itself, if it keeps any KV; workers count from 1."""
    homes: list[Home] = []
    if config.tier1_kv_bytes:
        cache = KVCache(
            loaded.spec.layers,
            config.tier1_kv_bytes,
            kv_dtype,
            loaded.model.device,
            threads=torch.get_num_threads(),
            on_torch_threads=True,
        )
        homes.append(LocalHome(0, cache))
    for number, channel in enumerate(channels, start=1):
        home = RemoteHome(number, channel, loaded.spec, loaded.model.device)
        stack.callback(home.close)
        local = channel.address in workers.addresses
        _open_session(home, loaded.spec, kv_dtype, workers, local=local)
        homes.append(home)
    return homes


def _open_session(
    home: RemoteHome, spec: ModelSpec, kv_dtype: str, workers: LocalWorkers, local: bool
) -> None:
    """Open one worker's session. One that is still starting is given time, unless it dies."""
    home.open(spec, kv_dtype)
    deadline = time.monotonic() + (_START_S if local else _ANSWER_S)
    while True:
        try:
            return home.await_open(_LOOK_S if local else _ANSWER_S)
        except WorkerLost:
            workers.check()
            if time.monotonic() > deadline:
                raise


def assemble(
    config: EngineConfig,
    loaded: LoadedModel,
    kv_dtype: str,
    homes: Sequence[Home],
    trace: Trace | None = None,
    attention: PromptAttention = attend_prompts,
    passes: Passes | None = None,
) -> Run:
    """A run over homes that are open."""
    tuning = tune(config, loaded, homes, passes)
    node = Node(loaded.model, loaded.spec.layers, homes, sample_batch, trace, attention, passes)
    limits = Limits(
        max_model_len=loaded.spec.max_model_len,
        kv_tokens=max(home.num_pages * home.page_tokens for home in homes),
        vocab_size=loaded.spec.vocab_size,
    )
    engine = Engine(node, homes, tuning.limits, tuning.pace)
    return Run(
        engine, loaded.spec, limits, kv_dtype, tuning, node, tuple(homes), time.perf_counter()
    )
