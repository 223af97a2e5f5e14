"""A node and all it needs, opened in order and closed whatever happens."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from glinthawk.core.config import ANSWER_S, EngineConfig
from glinthawk.core.drives import parse_drives
from glinthawk.core.errors import UsageError
from glinthawk.core.slices import LayerSlice
from glinthawk.core.source import resolve_model
from glinthawk.core.spec import page_bytes
from glinthawk.core.units import format_size
from glinthawk.engine.local_node import LocalNode
from glinthawk.engine.tuning import Tuning, choose_prompt_attention, tune
from glinthawk.launch.local_machine import load_identity, share_threads
from glinthawk.launch.local_processes import LocalProcesses, local_workers, parse_tier2
from glinthawk.launch.worker_supervisor import WorkerSupervisor
from glinthawk.telemetry.trace import Trace
from glinthawk.tier1.forward.cut import Passes
from glinthawk.tier1.forward.graphs import GraphedPasses
from glinthawk.tier1.forward.prompt_attention import PromptAttention, attend_prompts
from glinthawk.tier1.forward.recording import CudaRecorder
from glinthawk.tier1.kv.home import Home, LocalHome
from glinthawk.tier1.model.agreement import agree
from glinthawk.tier1.model.loader import LoadedModel, load_model
from glinthawk.tier1.model.same_bits import check_same_bits
from glinthawk.tier1.model.self_check import check_cut
from glinthawk.tier1.node import Node, Sampler
from glinthawk.tier1.sampling.token_masks import TokenMasks
from glinthawk.tier1.step_result import take_result
from glinthawk.tier1.xcache.rebuild import learn_rebuild
from glinthawk.tier1.xcache.share import XShare
from glinthawk.tier2.backends.fetched_pages import FetchedPages
from glinthawk.tier2.cache import KVCache
from glinthawk.tokens.grammars import Grammars
from glinthawk.tokens.tokenizer import load_tokenizer
from glinthawk.wire.address import Address
from glinthawk.wire.client_channel import ClientChannel
from glinthawk.wire.keys import Identity

__all__ = [
    "OpenNode",
    "join_homes",
    "open_node",
]

_log = logging.getLogger(__name__)

#: Pages that the self-check's three short sequences fit in.
_CHECK_PAGES = 8


@dataclass(frozen=True, slots=True)
class OpenNode:
    """A node with its homes, and what was found out about it."""

    node: LocalNode
    loaded: LoadedModel
    tuning: Tuning
    #: What the bits of answers depend on, of a batch-invariant run.
    arithmetic: str = ""


@contextmanager
def open_node(
    config: EngineConfig,
    trace: Trace | None = None,
    part: LayerSlice | None = None,
    sample: Sampler | None = None,
    loaded: LoadedModel | None = None,
    cores: int | None = None,
    identity: Identity | Path | None = None,
) -> Iterator[OpenNode]:
    """Start workers, load and check the model (or ``part`` of it, unless it is ``loaded`` already),
    open a session at every home. ``cores`` are for the node and the workers it starts.

    Raises UsageError or WorkerError; then nothing is left behind.
    """
    num_local, addresses = parse_tier2(config.tier2)
    tier1_threads, worker_threads = share_threads(num_local, cores)
    torch.set_num_threads(tier1_threads)
    if identity is None and config.identity is not None:
        identity = Path(config.identity)
    identity = load_identity(identity, addresses)
    with ExitStack() as stack:
        drives = parse_drives(config.worker_storage)
        workers = stack.enter_context(
            local_workers(num_local, config.worker_kv_bytes, worker_threads, drives)
        )
        for address in addresses:  # before any time is spent on the model
            _reach(address, identity)
        loaded = loaded or load_model(config, part)
        fetched = _fetched_pages(config, loaded)
        attention, passes, arithmetic = _choose_arithmetic(config, loaded)
        own = _local_homes(config, loaded)
        supervisor = stack.enter_context(
            _supervise(config, loaded, workers, identity, addresses, fetched, own)
        )
        homes = [*own, *supervisor.open_all()]
        if config.batch_invariant:
            check_same_bits(loaded, homes, passes)
            arithmetic += f"; attention by {homes[0].kernel}"
        opened = join_homes(config, loaded, homes, trace, attention, passes, supervisor, sample)
        yield replace(opened, arithmetic=arithmetic)


def _supervise(
    config: EngineConfig,
    loaded: LoadedModel,
    workers: LocalProcesses,
    identity: Identity | None,
    addresses: Sequence[Address],
    fetched: FetchedPages | None,
    own: Sequence[Home],
) -> WorkerSupervisor:
    """Of workers that were started here and of those elsewhere; Tier 1's ``own`` homes are not
    its business, but for the kernel that all have to have in a batch-invariant run."""
    return WorkerSupervisor(
        workers,
        identity,
        addresses,
        loaded,
        _kv_dtype(config, loaded),
        config.worker_timeout,
        config.split_attention,
        fetched,
        _share_x(config, loaded, len(workers.addresses) + len(addresses)),
        (own[0].kernel if own else "") if config.batch_invariant else None,
    )


def join_homes(
    config: EngineConfig,
    loaded: LoadedModel,
    homes: Sequence[Home],
    trace: Trace | None = None,
    attention: PromptAttention = attend_prompts,
    passes: Passes | None = None,
    supervisor: WorkerSupervisor | None = None,
    sample: Sampler | None = None,
) -> OpenNode:
    """A node over homes that are open; ``supervisor`` opens them again when they are lost.
    ``sample`` is what follows a pass; None: tokens are sampled."""
    sample = sample or _make_sampler(config, loaded)
    tuning = tune(config, loaded, homes, passes)
    spec = loaded.spec
    node = Node(loaded.model, spec.layers, homes, sample, trace, attention, passes, spec.rope)
    return OpenNode(LocalNode(node, homes, tuning.step_cost, supervisor), loaded, tuning)


def _make_sampler(config: EngineConfig, loaded: LoadedModel) -> Sampler:
    """It reads the model's tokenizer when the first answer with a grammar is sampled."""

    def load() -> Grammars:
        source = resolve_model(config.model)
        return Grammars(load_tokenizer(source, config.trust_remote_code))

    return partial(take_result, masks=TokenMasks(load), head=loaded.head)


def _choose_arithmetic(
    config: EngineConfig, loaded: LoadedModel
) -> tuple[PromptAttention, Passes | None, str]:
    """How prompts are attended and passes computed, and what the bits of answers depend on, of a
    batch-invariant run. Raises UsageError for a model that does not come to its own logits so."""
    attention = choose_prompt_attention(loaded)
    passes, name = _choose_passes(config, loaded), ""
    if config.batch_invariant:
        agreement = agree(loaded, passes)
        passes, name = agreement.passes, agreement.arithmetic
    _self_check(loaded, attention, passes)
    return attention, passes, name


def _reach(address: Address, identity: Identity | None) -> None:
    with ClientChannel(address, identity) as channel:
        channel.reach(ANSWER_S)


def _kv_dtype(config: EngineConfig, loaded: LoadedModel) -> str:
    """As the model's own type, unless another is wanted."""
    return loaded.spec.dtype if config.kv_dtype == "auto" else config.kv_dtype


def _choose_passes(config: EngineConfig, loaded: LoadedModel) -> Passes | None:
    """On a GPU, small passes are replayed; not where an X-cache has to see what attention is given,
    for replayed passes do not tell."""
    device = loaded.model.device
    if config.dense == "plain" or device.type != "cuda" or config.xcache:
        return None
    rows = loaded.spec.rope is not None, loaded.num_adapters
    return GraphedPasses(loaded.model, CudaRecorder(device), loaded.part, *rows)


def _share_x(config: EngineConfig, loaded: LoadedModel, num_workers: int) -> XShare | None:
    """What each worker's home keeps as X. Raises UnsupportedModel."""
    if not config.xcache:
        return None
    rebuild = learn_rebuild(loaded.model, loaded.spec)
    kv_dtype = _kv_dtype(config, loaded)
    ratio = rebuild.bytes_per_token / loaded.spec.kv_bytes_per_token(kv_dtype)
    if ratio >= 1:
        _log.warning("of this model, X takes %.2f times the bytes of K and V; --xcache 0", ratio)
    memory = config.xcache_bytes
    return XShare(config.xcache, rebuild, None if memory is None else memory // num_workers)


def _self_check(loaded: LoadedModel, attention: PromptAttention, passes: Passes | None) -> None:
    """In the model's own type: what a smaller KV type rounds away is the user's choice."""
    spec = loaded.spec
    num_bytes = _CHECK_PAGES * page_bytes(spec.layers, spec.dtype)
    cache = KVCache(spec.layers, num_bytes, spec.dtype, loaded.model.device)
    check_cut(loaded.model, spec, LocalHome(0, cache), loaded.truth, attention, passes)


def _fetched_pages(config: EngineConfig, loaded: LoadedModel) -> FetchedPages | None:
    """Attends here over the workers' KV, if that is wanted. Raises UsageError where it cannot."""
    if config.kv_placement == "near":
        return None
    if loaded.model.device.type != "cpu":
        raise UsageError(
            "`kv_placement` fetch attends on a CPU: give --device cpu, or leave it out"
        )
    threads = torch.get_num_threads()
    return FetchedPages(loaded.spec.layers, _kv_dtype(config, loaded), threads)


def _local_homes(config: EngineConfig, loaded: LoadedModel) -> list[Home]:
    """Home 0 is Tier 1 itself, if it keeps any KV; workers count from 1."""
    if not config.tier1_kv_bytes:
        return []
    try:
        cache = KVCache(
            loaded.spec.layers,
            config.tier1_kv_bytes,
            _kv_dtype(config, loaded),
            loaded.model.device,
            threads=torch.get_num_threads(),
            on_torch_threads=True,
        )
    except (RuntimeError, MemoryError) as error:
        raise UsageError(
            f"Tier 1 cannot give {format_size(config.tier1_kv_bytes)} of memory for KV ({error}); "
            "give a smaller --tier1-kv"
        ) from error
    return [LocalHome(0, cache)]
