"""Every default, said once. Command-line flags and ``LLM(...)`` are made from this class."""

from dataclasses import dataclass
from typing import Literal, get_args

from glinthawk.core.drives import parse_drives
from glinthawk.core.errors import UsageError
from glinthawk.core.units import parse_size

__all__ = [
    "ANSWER_S",
    "LINK_WINDOW",
    "PAGE_TOKENS",
    "PRIVATE_FOLDER",
    "RAY",
    "WORKER_TIMEOUT_S",
    "Auto",
    "Dense",
    "Device",
    "Dtype",
    "EngineConfig",
    "KvDtype",
    "KvPlacement",
    "LoadFormat",
    "SplitAttention",
]

#: Tokens of one KV page. 16 would waste less memory, 64 would copy less; see docs/architecture.md.
PAGE_TOKENS = 32

#: Bytes that may be on their way to a worker or a node: more than any network has under way at one
#: time, and little beside the memory of either.
LINK_WINDOW = 256 << 20

#: Seconds that a worker which is there may take to answer a short question.
ANSWER_S = 15.0

#: How the folders begin that a run makes for its workers' sockets.
PRIVATE_FOLDER = "glinthawk-run-"

#: Seconds of silence after which a worker is given up: more than any network's hiccup.
WORKER_TIMEOUT_S = 30.0
#: What heartbeats can say.
_SHORTEST_TIMEOUT_S, _LONGEST_TIMEOUT_S = 0.1, 6000.0
#: In place of a cluster file: nodes and workers are actors of a Ray cluster.
RAY = "ray"

Auto = Literal["auto"]
Dtype = Literal["auto", "bfloat16", "float16", "float32"]
KvDtype = Literal["auto", "bfloat16", "float16", "float32", "int8"]
Device = Literal["auto", "cpu", "cuda"]
LoadFormat = Literal["auto", "dummy"]
Dense = Literal["auto", "plain"]
SplitAttention = Literal["sequence", "heads", "tokens"]
KvPlacement = Literal["near", "fetch"]

_CHOICES = {
    "kv_dtype": KvDtype,
    "dtype": Dtype,
    "device": Device,
    "load_format": LoadFormat,
    "dense": Dense,
    "split_attention": SplitAttention,
    "kv_placement": KvPlacement,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What a run is made of. Sizes may be given as text ("4GiB")."""

    model: str
    #: ``local:N`` starts N workers here; ``tcp://host:port?key=...`` joins one; () is single-tier.
    tier2: tuple[str, ...] = ()
    #: KV cache on Tier 1 itself; None is 2 GiB without workers and 0 beside workers.
    tier1_kv: int | str | None = None
    worker_kv: int | str = "4GiB"
    #: ``DIR:SIZE`` on each drive that every worker started here keeps KV on when memory is full.
    worker_storage: tuple[str, ...] = ()
    #: Each worker keeps whole sequences (``sequence``), some KV heads of all sequences (``heads``),
    #: or some of their tokens, so that one sequence may outgrow every worker (``tokens``).
    split_attention: SplitAttention = "sequence"
    #: Where the workers' KV is attended: there (``near``), or, the baseline to compare with, on
    #: Tier 1, which reads it over the link in every step (``fetch``).
    kv_placement: KvPlacement = "near"
    #: Of this share of every sequence, Tier 1 keeps the inputs of attention and rebuilds K and V.
    xcache: float = 0.0
    #: Most memory that takes for all workers; None is as much as goes with their KV.
    xcache_memory: int | str | None = None
    kv_dtype: KvDtype = "auto"
    dtype: Dtype = "auto"
    device: Device = "auto"
    load_format: LoadFormat = "auto"
    #: Whether code that comes with a checkpoint may run, here and on the nodes of a cluster.
    trust_remote_code: bool = False
    #: ``auto`` packs linear layers for this CPU, on a GPU it replays small passes as CUDA graphs;
    #: ``plain`` leaves the model as it was made.
    dense: Dense = "auto"
    #: Answers are the same bits whatever runs beside them and wherever attention is computed.
    batch_invariant: bool = False
    #: Most sequences that take one step together.
    batch_size: int | Auto = "auto"
    batches_in_flight: int | Auto = "auto"
    #: Most tokens of one step; a longer prompt takes a step of its own.
    batch_tokens: int = 2048
    max_model_len: int | None = None
    seed: int = 0
    #: File of the key pair with which tcp workers are joined; None is the user's own.
    identity: str | None = None
    #: File of the machines that the model is laid over (core/cluster.py), or ``ray``; None is this
    #: one.
    cluster: str | None = None
    #: On Ray: nodes, None is one for every GPU; workers of each, None is one for every machine.
    slices: int | None = None
    workers_per_slice: int | None = None
    #: Seconds that a job waits for a worker when none is left.
    wait_for_workers: float = 60.0
    #: Seconds of silence after which a worker is given up, and a worker gives up this run.
    worker_timeout: float = WORKER_TIMEOUT_S

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in get_args(choices):
                raise UsageError(
                    f"{name} must be one of {', '.join(get_args(choices))}, "
                    f"not {getattr(self, name)!r}"
                )
        for name in ("batch_size", "batches_in_flight"):
            value = getattr(self, name)
            if value != "auto" and not (isinstance(value, int) and value >= 1):
                raise UsageError(f"{name} must be auto or at least 1, not {value!r}")
        for name in ("tier1_kv", "worker_kv", "xcache_memory"):
            _check_size(name, getattr(self, name))
        parse_drives(self.worker_storage)
        if self.batch_tokens < 1:
            raise UsageError(f"batch_tokens must be at least 1, not {self.batch_tokens}")
        if not -(2**63) <= self.seed < 2**63:
            raise UsageError(f"seed must be a 64-bit integer, not {self.seed}")
        if self.max_model_len is not None and self.max_model_len < 2:
            raise UsageError("max_model_len must be at least 2: one token in, one out")
        self._check_places()
        self._check_placement()
        self._check_xcache()
        self._check_invariance()

    def _check_places(self) -> None:
        if self.cluster is not None and self.tier2:
            raise UsageError("the cluster names the workers; leave tier2 out")
        _check_timeout(self.worker_timeout)
        for name, least in (("slices", 1), ("workers_per_slice", 0)):
            value = getattr(self, name)
            if value is not None and self.cluster != RAY:
                raise UsageError(f"{name} goes with cluster {RAY} only")
            if value is not None and value < least:
                raise UsageError(f"{name} must be at least {least}, not {value}")
        if self.cluster is None and not self.tier2 and self.tier1_kv_bytes == 0:
            raise UsageError(
                "there is no memory for the KV cache: give tier1_kv a size or name workers in tier2"
            )
        if self.split_attention != "sequence" and not (self.tier2 or self.cluster):
            raise UsageError(
                f"split_attention {self.split_attention} splits over workers: name some in tier2"
            )

    def _check_placement(self) -> None:
        if self.kv_placement == "near":
            return
        if not (self.tier2 or self.cluster):
            raise UsageError("kv_placement fetch reads KV from workers: name some in tier2")
        if self.split_attention != "sequence":
            raise UsageError("kv_placement fetch goes with split_attention sequence only")
        if self.device == "cuda":
            raise UsageError("kv_placement fetch attends on a CPU: use device cpu, or near")

    def _check_xcache(self) -> None:
        if not (isinstance(self.xcache, int | float) and 0 <= self.xcache < 1):
            raise UsageError(f"xcache must be at least 0 and less than 1, not {self.xcache!r}")
        if self.xcache and self.cluster is not None:
            raise UsageError("nodes of a cluster keep no X-cache: leave xcache out, or cluster")
        if self.xcache and not self.tier2:
            raise UsageError("xcache is a share of what workers hold: name some in tier2")
        if self.xcache and self.split_attention != "sequence":
            raise UsageError(
                f"xcache goes with split_attention sequence, not with {self.split_attention}"
            )
        if self.xcache and self.kv_placement != "near":
            raise UsageError("xcache goes with kv_placement near: the rest is attended at workers")
        if self.xcache_memory is not None and not self.xcache:
            raise UsageError("xcache_memory goes with xcache: give that a share")

    def _check_invariance(self) -> None:
        if not self.batch_invariant:
            return
        if self.split_attention == "tokens" or self.xcache:
            raise UsageError(
                "batch_invariant does not go with split_attention tokens, nor with xcache: parts "
                "of a sequence are merged in an order that depends on where they lie"
            )
        if self.kv_placement != "near":
            raise UsageError("batch_invariant goes with kv_placement near")

    @property
    def xcache_bytes(self) -> int | None:
        """Most bytes of X on Tier 1; None: as many as go with the workers' KV."""
        return None if self.xcache_memory is None else parse_size(self.xcache_memory)

    @property
    def tier1_kv_bytes(self) -> int:
        """Bytes of KV cache on Tier 1."""
        if self.tier1_kv is None:
            return 0 if self.tier2 else parse_size("2GiB")
        return parse_size(self.tier1_kv)

    @property
    def more_kv(self) -> str:
        """What gives one sequence more room, for people: it has to fit in one place."""
        if self.cluster not in (None, RAY):
            return f"raise worker_kv or tier1_kv in {self.cluster}, or --kv of workers it joins"
        is_local = [place.startswith("local:") for place in self.tier2]
        starts = any(is_local) or (self.cluster == RAY and self.workers_per_slice != 0)
        ways = {
            "raise --tier1-kv": parse_size(self.tier1_kv or 0) > 0 or not (self.tier2 or starts),
            "raise --worker-kv": starts,
            "start workers with a larger --kv": not all(is_local),
        }
        return " or ".join(way for way, leads_there in ways.items() if leads_there)

    @property
    def worker_kv_bytes(self) -> int:
        """Bytes of KV cache on each worker started here."""
        return parse_size(self.worker_kv)


def _check_timeout(value: object) -> None:
    is_number = isinstance(value, int | float)
    if not is_number or not _SHORTEST_TIMEOUT_S <= value <= _LONGEST_TIMEOUT_S:  # type: ignore[operator]
        raise UsageError(
            f"worker_timeout must be {_SHORTEST_TIMEOUT_S:g} to {_LONGEST_TIMEOUT_S:g} seconds, "
            f"not {value!r}"
        )


def _check_size(name: str, value: int | str | None) -> None:
    try:
        is_size = value is None or parse_size(value) >= 0
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error
    if not is_size:
        raise UsageError(f"{name} must be 0 or more bytes, not {value}")
