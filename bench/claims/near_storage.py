"""INF^2 (arXiv 2502.09921): attention beside the drives that keep the KV cache.

A step streams the weights from the host's memory over the accelerator's link, and moves KV over the
same link (FlexGen's way), or reads it inside the drives. These are bounds: drives, link and
arithmetic at their best, nothing else counted.
"""

from collections.abc import Iterator

from claims.table import Table
from glinthawk.planner.formulas import (
    cached_input_bytes,
    cached_input_share,
    near_storage_gain,
)
from glinthawk.planner.models import known_shape

__all__ = ["tables"]

#: The accelerator's PCIe 4.0 link, and all drives' own reads together: three times as much, as
#: measured there with 16 drives.
_LINK = 24e9
_STORAGE = 3 * _LINK


def tables() -> Iterator[Table]:
    yield _bytes()
    yield _gain()


def _bytes() -> Table:
    rows = []
    for name in ("OPT-30B", "OPT-175B", "Qwen2.5-32B", "Llama-3.3-70B"):
        one = known_shape(name).attention[0]
        group = one.num_heads // one.num_kv_heads
        rows.append(
            (
                name,
                group,
                *(near_storage_gain(context, group) for context in (1024, 32768)),
                cached_input_bytes(group),
            )
        )
    header = ("model", "query heads per KV head", "times fewer bytes at 1024", "at 32768")
    return Table("storage-bytes", (*header, "inputs over KV"), rows)


def _gain() -> Table:
    share = cached_input_share(_LINK, _STORAGE)
    rows = []
    for name in ("OPT-30B", "OPT-66B", "OPT-175B", "Qwen2.5-32B"):
        shape = known_shape(name)
        one = shape.attention[0]
        inputs = cached_input_bytes(one.num_heads // one.num_kv_heads)
        for context in (8192, 32768):
            kv = 32 * context * shape.kv_bytes_per_token("float16")
            weights_s = shape.weight_bytes / _LINK
            moved_s = weights_s + kv / _LINK
            near_s = weights_s + kv / _STORAGE
            read = (1 - share + share * inputs) * kv / _STORAGE
            mixed_s = weights_s + max(read, share * inputs * kv / _LINK)
            rows.append(
                (
                    f"{name}, {context}",
                    kv / shape.weight_bytes,
                    moved_s / near_s,
                    moved_s / mixed_s,
                )
            )
    header = ("model, context at batch 32", "KV over weights", "attention near storage, times")
    return Table("storage-gain", (*header, "with half as inputs"), rows)
