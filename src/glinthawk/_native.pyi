"""The C++ extension: see native/src/bindings. Addresses are those of contiguous tensors."""

class Layer: ...
class Plan: ...

def supported_isas() -> list[str]: ...
def rms_norm(
    out: int,
    rows: int,
    weight: int,
    num_rows: int,
    size: int,
    epsilon: float,
    dtype: str,
    threads: int,
    team_parallel: int,
    team_thread: int,
    /,
) -> None: ...
def make_layer(
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    value_dim: int,
    scaling: float,
    window: int,
    softcap: float,
    sinks: list[float],
) -> Layer: ...
def make_plan(
    starts: int,
    lengths: int,
    num_spans: int,
    pages: int,
    num_pages: int,
    offsets: int,
    oldest: int,
    num_rows: int,
    page_limit: int,
    page_tokens: int,
) -> Plan: ...
def rotate(
    out: int,
    heads: int,
    token_bytes: int,
    cos: int,
    sin: int,
    num_tokens: int,
    num_heads: int,
    size: int,
    dtype: str,
    threads: int,
    team_parallel: int,
    team_thread: int,
    /,
) -> None: ...
def multiply_rows(
    out: int,
    rows: int,
    weight: int,
    bias: int,
    num_rows: int,
    num_inputs: int,
    num_outputs: int,
    emulated: bool,
    threads: int,
    team_parallel: int,
    team_thread: int,
    /,
) -> None: ...

class PackedShape:
    """Sizes of a quantised weight; ValueError for those that cannot be."""

    def __init__(
        self,
        num_outputs: int,
        num_inputs: int,
        group: int,
        code_bits: int,
        scale_bytes: int,
        offset_bytes: int,
    ) -> None: ...
    @property
    def bytes(self) -> int: ...

def pack_quantized(
    shape: PackedShape,
    packed: int,
    codes: int,
    recode: int,
    scales: int,
    offsets: int,
    num_given: int,
    /,
) -> None: ...
def multiplies_quantized(isa: str, dtype: str, /) -> bool: ...
def multiply_quantized(
    shape: PackedShape,
    out: int,
    rows: int,
    packed: int,
    values: int,
    bias: int,
    offset: float,
    num_rows: int,
    dtype: str,
    isa: str,
    threads: int,
    team_parallel: int,
    team_thread: int,
    /,
) -> None: ...
def sample_rows(
    tokens: int,
    rules: int,
    edit_offsets: int,
    edit_tokens: int,
    edit_values: int,
    masks: int,
    mask_words: int,
    rows: int,
    num_rows: int,
    size: int,
    dtype: str,
    isa: str,
    threads: int,
    team_parallel: int,
    team_thread: int,
    /,
) -> None: ...
def rank_rows(
    tokens: int,
    logprobs: int,
    ranks: int,
    count: int,
    top_ids: int,
    top_logprobs: int,
    rows: int,
    num_rows: int,
    size: int,
    dtype: str,
    isa: str,
    threads: int,
    team_parallel: int,
    team_thread: int,
    /,
) -> None: ...

class Engine:
    def __init__(
        self,
        layers: list[Layer],
        num_pages: int,
        page_tokens: int,
        kv_dtype: str,
        threads: int,
        isa: str,
        team_parallel: int,
        team_thread: int,
    ) -> None: ...
    def append(self, layer: int, plan: Plan, keys: int, values: int, dtype: str, /) -> None: ...
    def attend(
        self, layer: int, plan: Plan, queries: int, dtype: str, outputs: int, lse: int, /
    ) -> None: ...
    def append_attend(
        self,
        layer: int,
        plan: Plan,
        keys: int,
        values: int,
        queries: int,
        dtype: str,
        outputs: int,
        lse: int,
        /,
    ) -> None: ...
    def attend_packed(
        self,
        layer: int,
        plan: Plan,
        units: int,
        queries: int,
        dtype: str,
        outputs: int,
        lse: int,
        /,
    ) -> None: ...
    def read(self, layer: int, pages: int, num_pages: int, to: int, /) -> None: ...
    def unit_bytes(self, layer: int, /) -> int: ...
    def copy_page(self, source: int, target: int, /) -> None: ...
    @property
    def isa(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def page_bytes(self) -> int: ...

class StorageStats:
    bytes_read: int
    bytes_written: int
    num_frames: int
    num_available: int

class DriveEngine:
    """As Engine, with pages in memory and on drives; files are (descriptor, bytes, name)."""

    def __init__(
        self,
        layers: list[Layer],
        page_tokens: int,
        kv_dtype: str,
        threads: int,
        isa: str,
        memory_bytes: int,
        files: list[tuple[int, int, str]],
        only_threads: bool,
    ) -> None: ...
    def begin(self, plan: Plan, /) -> None: ...
    def end(self, plan: Plan, /) -> None: ...
    def append(self, layer: int, plan: Plan, keys: int, values: int, dtype: str, /) -> None: ...
    def attend(
        self, layer: int, plan: Plan, queries: int, dtype: str, outputs: int, lse: int, /
    ) -> None: ...
    def append_attend(
        self,
        layer: int,
        plan: Plan,
        keys: int,
        values: int,
        queries: int,
        dtype: str,
        outputs: int,
        lse: int,
        /,
    ) -> None: ...
    def read(self, layer: int, pages: int, num_pages: int, to: int, /) -> None: ...
    def release(self, pages: int, num_pages: int, /) -> None: ...
    def copy_page(self, source: int, target: int, /) -> None: ...
    def unit_bytes(self, layer: int, /) -> int: ...
    def validate(self) -> None: ...
    def stats(self) -> StorageStats: ...
    @property
    def failure(self) -> str: ...
    @property
    def num_pages(self) -> int: ...
    @property
    def page_bytes(self) -> int: ...
    @property
    def isa(self) -> str: ...
    @property
    def threads(self) -> int: ...

def checksum(memory: int, bytes: int, plain: bool, /) -> int: ...

class Roof:
    def __init__(self, bytes: int, threads: int) -> None: ...
    def measure(self) -> float: ...
