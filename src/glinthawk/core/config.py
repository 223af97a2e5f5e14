"""Every default, said once. Command-line flags and ``LLM(...)`` are made from this class."""

from dataclasses import dataclass
from typing import Annotated, Literal

from glinthawk.core.drives import parse_drives
from glinthawk.core.errors import UsageError
from glinthawk.core.lora import adapter_names, parse_lora
from glinthawk.core.setting import Setting, check_settings
from glinthawk.core.units import Size, parse_size

__all__ = [
    "ANSWER_S",
    "LINK_WINDOW",
    "PAGE_TOKENS",
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
    "SpeculationMode",
    "SplitAttention",
]

#: Tokens of one KV page. 16 would waste less memory, 64 would copy less; see docs/architecture.md.
PAGE_TOKENS = 32

#: Bytes that may be on their way to a worker or a node: more than any network has under way at one
#: time, and little beside the memory of either.
LINK_WINDOW = 256 << 20

#: Seconds that a worker which is there may take to answer a short question.
ANSWER_S = 15.0

#: Seconds of silence after which a worker is given up: more than any network's hiccup.
WORKER_TIMEOUT_S = 30.0
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
SpeculationMode = Literal["off", "prompt-lookup", "auto"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What a run is made of. Sizes may be given as text ("4GiB").

    Raises UsageError for values that cannot be, or do not go together.
    """

    model: Annotated[str, Setting("Model folder, hub name, GGUF file, or demo.", short="-m")]
    tier2: Annotated[
        tuple[str, ...],
        Setting(
            "local:N starts N workers here; tcp://host:port?key=KEY joins one (repeatable), "
            "tcp+plain://host:port?password=PASSWORD without encryption. "
            "None: all attention on Tier 1.",
            metavar="PLACE",
        ),
    ] = ()
    cluster: Annotated[
        str | None,
        Setting(
            "TOML file of the nodes and workers to lay the model over; or ray: they are actors of "
            "the Ray cluster that runs here, or of one that is started for this run.",
            metavar="FILE|ray",
        ),
    ] = None
    slices: Annotated[
        int | None,
        Setting("With `cluster` ray: nodes in a row. Default: one for every GPU, or 1.", least=1),
    ] = None
    workers_per_slice: Annotated[
        int | None,
        Setting(
            "With `cluster` ray: workers of each node, with `worker_kv` each. Default: one for "
            "every machine.",
            least=0,
        ),
    ] = None
    tier1_kv: Annotated[
        Size | None, Setting("KV cache on Tier 1 itself. Default: 2GiB without workers, else 0.")
    ] = None
    worker_kv: Annotated[Size, Setting("KV cache of each worker started here.")] = "4GiB"
    worker_storage: Annotated[
        tuple[str, ...],
        Setting(
            "DIR:SIZE on a drive for KV that `worker_kv` does not hold, for each worker started "
            "here (repeatable, one for each drive).",
            metavar="DIR:SIZE",
        ),
    ] = ()
    split_attention: Annotated[
        SplitAttention,
        Setting(
            "What each worker keeps: whole sequences; some KV heads of all sequences; or some "
            "tokens, so that one sequence may outgrow every worker."
        ),
    ] = "sequence"
    kv_placement: Annotated[
        KvPlacement,
        Setting(
            "Where workers' KV is attended: near, at the workers; fetch, the baseline to compare "
            "with: it is read over the link in every step and attended on Tier 1."
        ),
    ] = "near"
    xcache: Annotated[
        float,
        Setting(
            "Of this share of every sequence, 0 to below 1, Tier 1 keeps the inputs of attention "
            "in place of K and V and rebuilds those, so that workers hold and read so much less. "
            "Pays where every query head has a KV head of its own.",
            metavar="ALPHA",
            least=0,
            below=1,
        ),
    ] = 0.0
    xcache_memory: Annotated[
        Size | None,
        Setting(
            "Most memory of `xcache`, for all workers. Default: as much as goes with their KV."
        ),
    ] = None
    kv_dtype: Annotated[KvDtype, Setting("Type of the KV cache; auto: as `dtype`.")] = "auto"
    dtype: Annotated[Dtype, Setting("Type of weights; auto: as the model says.")] = "auto"
    device: Annotated[Device, Setting("Where Tier 1 runs; auto: a GPU if any.")] = "auto"
    load_format: Annotated[LoadFormat, Setting("dummy: random weights from config.json alone.")] = (
        "auto"
    )
    trust_remote_code: Annotated[
        bool,
        Setting("Run code that comes with the model's files."),
    ] = False
    lora: Annotated[
        tuple[str, ...],
        Setting(
            "NAME=PATH of a LoRA adapter in PEFT's format, for requests whose model is NAME "
            "(repeatable); PATH alone: all requests take it.",
            also="--lora-modules",
            metavar="NAME=PATH",
        ),
    ] = ()
    dense: Annotated[
        Dense,
        Setting("auto: layers are packed for this CPU, or become CUDA graphs; plain: left alone."),
    ] = "auto"
    batch_invariant: Annotated[
        bool,
        Setting(
            "Answers are the same bits for any batch, layout, interruption and resume, on "
            "machines alike. `glinthawk bench dense` prints what it costs."
        ),
    ] = False
    batch_size: Annotated[
        int | Auto, Setting("Most sequences that step together, or auto.", least=1)
    ] = "auto"
    batches_in_flight: Annotated[
        int | Auto,
        Setting(
            "Batches under way at one time, or auto, which also leaves workers alone where they "
            "do not pay beside `tier1_kv`.",
            least=1,
        ),
    ] = "auto"
    batch_tokens: Annotated[
        int, Setting("Most tokens of one step; a longer prompt takes several, in chunks.", least=1)
    ] = 2048
    speculation: Annotated[
        SpeculationMode,
        Setting(
            "prompt-lookup: what followed the newest tokens earlier in a prompt or its answer is "
            "guessed to follow now, and checked in one step; answers are the same. auto: only "
            "where that was measured to pay."
        ),
    ] = "off"
    num_speculative_tokens: Annotated[
        int, Setting("With `speculation`: most tokens guessed at a time.", least=1, most=64)
    ] = 7
    max_model_len: Annotated[
        int | None, Setting("Longest prompt plus answer. Default: the model's.", least=2)
    ] = None
    seed: Annotated[
        int,
        Setting("For requests that bring no seed of their own.", least=-(2**63), most=2**63 - 1),
    ] = 0
    identity: Annotated[
        str | None,
        Setting(
            "File of the key pair with which tcp workers are joined. Default: one for each user.",
            metavar="FILE",
        ),
    ] = None
    worker_timeout: Annotated[
        float,
        Setting(
            "Seconds of silence after which a worker is given up, and a worker gives up this run; "
            "longer than its largest parcel takes on the link.",
            # What heartbeats can say.
            least=0.1,
            most=6000,
        ),
    ] = WORKER_TIMEOUT_S
    wait_for_workers: Annotated[
        float, Setting("Seconds to wait for a worker when none is left.", least=0)
    ] = 60.0

    def __post_init__(self) -> None:
        check_settings(self, UsageError, quote="`")
        parse_drives(self.worker_storage)
        parse_lora(self.lora)
        self._check_places()
        self._check_placement()
        self._check_xcache()
        self._check_invariance()

    def _check_places(self) -> None:
        if self.cluster is not None and self.tier2:
            raise UsageError("`cluster` names the workers; leave `tier2` out")
        for name in ("slices", "workers_per_slice"):
            if getattr(self, name) is not None and self.cluster != RAY:
                raise UsageError(f"`{name}` goes with `cluster` {RAY} only")
        if self.cluster is None and not self.tier2 and self.tier1_kv_bytes == 0:
            raise UsageError(
                "there is no memory for the KV cache: give `tier1_kv` a size or name workers in "
                "`tier2`"
            )
        if self.split_attention != "sequence" and not (self.tier2 or self.cluster):
            raise UsageError(
                f"`split_attention` {self.split_attention} splits over workers: name some in "
                "`tier2`"
            )

    def _check_placement(self) -> None:
        if self.kv_placement == "near":
            return
        if not (self.tier2 or self.cluster):
            raise UsageError("`kv_placement` fetch reads KV from workers: name some in `tier2`")
        if self.split_attention != "sequence":
            raise UsageError("`kv_placement` fetch goes with `split_attention` sequence only")
        if self.device == "cuda":
            raise UsageError("`kv_placement` fetch attends on a CPU: use `device` cpu, or near")

    def _check_xcache(self) -> None:
        if self.xcache and self.cluster is not None:
            raise UsageError("nodes of a cluster keep no X-cache: leave `xcache` out, or `cluster`")
        if self.xcache and adapter_names(self.lora):
            raise UsageError("`xcache` goes with one `lora` without a name, that all requests take")
        if self.xcache and not self.tier2:
            raise UsageError("`xcache` is a share of what workers hold: name some in `tier2`")
        if self.xcache and self.split_attention != "sequence":
            raise UsageError(
                f"`xcache` goes with `split_attention` sequence, not with {self.split_attention}"
            )
        if self.xcache and self.kv_placement != "near":
            raise UsageError(
                "`xcache` goes with `kv_placement` near: the rest is attended at workers"
            )
        if self.xcache_memory is not None and not self.xcache:
            raise UsageError("`xcache_memory` goes with `xcache`: give that a share")

    def _check_invariance(self) -> None:
        if not self.batch_invariant:
            return
        if self.split_attention == "tokens" or self.xcache:
            raise UsageError(
                "`batch_invariant` does not go with `split_attention` tokens, nor with `xcache`: "
                "parts of a sequence are merged in an order that depends on where they lie"
            )
        if self.kv_placement != "near":
            raise UsageError("`batch_invariant` goes with `kv_placement` near")

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
    def worker_kv_bytes(self) -> int:
        """Bytes of KV cache on each worker started here."""
        return parse_size(self.worker_kv)
