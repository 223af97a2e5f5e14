"""Workers in threads of the test's process, reached over any transport."""

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from glinthawk.bench.relay import slow_link
from glinthawk.core.config import (
    LINK_WINDOW,
    PAGE_TOKENS,
    EngineConfig,
    KvPlacement,
    SpeculationMode,
    SplitAttention,
)
from glinthawk.core.drives import Drive
from glinthawk.engine.node_opening import join_homes
from glinthawk.engine.run import Run, run_on
from glinthawk.tier1.device.staging import Staging
from glinthawk.tier1.forward.cut import Passes
from glinthawk.tier1.forward.prompt_attention import PromptAttention, attend_prompts
from glinthawk.tier1.kv.home import Home, LocalHome
from glinthawk.tier1.kv.home_factory import group_workers, make_home
from glinthawk.tier1.kv.token_split import STRIPE_PAGES
from glinthawk.tier1.model.loader import LoadedModel
from glinthawk.tier1.xcache.share import XShare
from glinthawk.tier2.backends.fetched_pages import FetchedPages
from glinthawk.tier2.cache import KVCache
from glinthawk.tier2.pages.page_files import PageFiles
from glinthawk.tier2.server import serve
from glinthawk.wire.address import Address
from glinthawk.wire.client_channel import ClientChannel
from glinthawk.wire.keys import Identity
from glinthawk.wire.server_channel import ServerChannel

__all__ = ["IDENTITY", "open_cluster", "pages_bytes", "serving", "worker_thread"]

IDENTITY = Identity.create()
_names = itertools.count()


def pages_bytes(loaded: LoadedModel, num_pages: int, kv_dtype: str = "float32") -> int:
    """Memory of ``num_pages`` pages of KV."""
    return num_pages * PAGE_TOKENS * loaded.spec.kv_bytes_per_token(kv_dtype)


def _address(scheme: str, folder: Path) -> Address:
    name = f"worker-{next(_names)}"
    texts = {
        "inproc": f"inproc://{name}",
        "ipc": f"ipc://{folder}/{name}",
        "tcp": "tcp://127.0.0.1:0",
    }
    return Address.parse(texts[scheme])


@contextmanager
def worker_thread(
    scheme: str,
    folder: Path,
    kv_bytes: int,
    device: str = "cpu",
    storage_bytes: int = 0,
    window: int = LINK_WINDOW,
) -> Iterator[Address]:
    """A worker that serves until the block ends; yields where it listens. With ``storage_bytes``
    it has two drives."""
    stop = threading.Event()
    drives = [Drive(folder, storage_bytes // 2)] * 2 if storage_bytes else []
    with (
        PageFiles(drives) as files,
        ServerChannel(
            _address(scheme, folder), IDENTITY, [IDENTITY.public], window=window
        ) as channel,
    ):
        address = Address.parse(channel.endpoint)
        arguments = (channel, kv_bytes, device)
        options = {"stop": stop, "files": files}
        thread = threading.Thread(target=serve, args=arguments, kwargs=options)
        thread.start()
        try:
            yield address
        finally:
            stop.set()
            with ClientChannel(address, IDENTITY) as bell:  # any message makes it look at ``stop``
                bell.socket.send(b"")
                thread.join()


@contextmanager
def serving(
    answer: Callable[[ServerChannel, bytes, list[memoryview]], None], window: int = LINK_WINDOW
) -> Iterator[Address]:
    """A server whose messages go to ``answer``, in a thread, until the block ends."""
    address, stop = Address.parse(f"inproc://server-{next(_names)}"), threading.Event()

    def serve(channel: ServerChannel) -> None:
        while not stop.is_set():
            if channel.socket.poll(20) and (received := channel.take()) is not None:
                answer(channel, *received)

    with ServerChannel(address, window=window) as channel:
        thread = threading.Thread(target=serve, args=(channel,))
        thread.start()
        try:
            yield address
        finally:
            stop.set()
            thread.join()


@contextmanager
def open_cluster(
    loaded: LoadedModel,
    folder: Path,
    *,
    scheme: str = "inproc",
    workers: int = 1,
    batches_in_flight: int = 1,
    tier1_pages: int = 0,
    worker_pages: int | Sequence[int] = 64,
    split: SplitAttention = "sequence",
    stripe_pages: int = STRIPE_PAGES,
    batch_size: int = 8,
    batch_tokens: int = 2048,
    worker_device: str = "cpu",
    worker_storage: int = 0,
    passes: Passes | None = None,
    staging: Callable[[], Staging | None] = lambda: None,
    attention: PromptAttention = attend_prompts,
    delay_s: float = 0.0,
    placement: KvPlacement = "near",
    kv_dtype: str = "float32",
    x_share: XShare | None = None,
    window: int = LINK_WINDOW,
    speculation: SpeculationMode = "off",
) -> Iterator[Run]:
    """A run over ``workers`` worker threads and, with ``tier1_pages``, Tier 1's own memory. With
    ``ipc``, workers may be ``delay_s`` away each way. ``worker_pages``, of each or of all alike,
    are pages of all heads; ``worker_storage`` are bytes on drives beside them; ``window`` bytes may
    be on their way to each."""
    spec = loaded.spec
    pages = FetchedPages(spec.layers, kv_dtype, 1) if placement == "fetch" else None
    config = EngineConfig(
        model=spec.name,
        tier1_kv="1MiB",
        batch_size=batch_size,
        batches_in_flight=batches_in_flight,
        batch_tokens=batch_tokens,
        speculation=speculation,
    )
    homes: list[Home] = []
    with ExitStack() as stack:
        if tier1_pages:
            kv_bytes = pages_bytes(loaded, tier1_pages)
            cache = KVCache(spec.layers, kv_bytes, "float32", loaded.model.device, threads=1)
            homes.append(LocalHome(0, cache))
        counts = [worker_pages] * workers if isinstance(worker_pages, int) else worker_pages
        channels = []
        for num_pages in counts:
            kv_bytes = pages_bytes(loaded, num_pages)
            worker = worker_thread(scheme, folder, kv_bytes, worker_device, worker_storage, window)
            address = stack.enter_context(worker)
            if delay_s:
                socket = Path(address.endpoint.removeprefix("ipc://"))
                relay = stack.enter_context(slow_link(socket, delay_s))
                address = Address.parse(f"ipc://{relay.path}")
            channels.append(stack.enter_context(ClientChannel(address, IDENTITY)))
        for number, group in enumerate(group_workers(split, channels), start=1):
            device = loaded.model.device
            home = make_home(
                split, number, group, spec, device, staging, stripe_pages, pages, x_share
            )
            stack.callback(home.close)
            home.open(kv_dtype)
            home.await_open(10)
            homes.append(home)
        yield run_on(config, join_homes(config, loaded, homes, None, attention, passes))
