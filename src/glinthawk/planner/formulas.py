"""Closed forms from the papers: what a link must carry, what balances, what near storage saves."""

from math import ceil

from glinthawk.core.shape import ModelShape

__all__ = [
    "cached_input_bytes",
    "cached_input_share",
    "least_link_bytes_per_s",
    "near_storage_gain",
    "near_storage_speedup",
    "page_read_bytes",
    "read_share",
    "rebuilt_share",
    "staggered_attention_s",
    "staggered_layer_s",
    "write_back_bytes",
]

#: What a drive writes at least.
_BLOCK = 4096


def least_link_bytes_per_s(
    shape: ModelShape, batch: int, dense_s: float, attention_s: float, slowdown: float
) -> float:
    """Link of a Tier-1 node on which a step loses at most the share ``slowdown`` to transfers.

    (2 + 2/G) e d B L / (alpha (t_dense + t_attention)); times over all layers. Lamina, arXiv
    2405.01814, section 4.

    >>> # Llama-3-70B: 2.95 MB a token; 300 rows in 150 ms, a fifth lost: 29.5 GB/s
    """
    moved = batch * (shape.wire_bytes_out + shape.wire_bytes_back)
    return moved / (slowdown * (dense_s + attention_s))


def staggered_layer_s(dense_s: float, batches: int) -> float:
    """A layer's time for each of n batches that take turns on n - 1 replicas of the model, which
    are then always busy: n / (n - 1) of the dense part's. Lamina, arXiv 2405.01814, section 4.3.

    >>> staggered_layer_s(3.0, 4)
    4.0
    """
    return dense_s * batches / (batches - 1)


def staggered_attention_s(dense_s: float, batches: int) -> float:
    """What attention may take for that: t_dense / (n - 1).

    >>> staggered_attention_s(3.0, 4)
    1.0
    """
    return dense_s / (batches - 1)


def near_storage_gain(context: float, group: int = 1) -> float:
    """How many times fewer bytes cross the host's link when attention is computed beside the KV:
    (s + 1) / (G + 1) with G query heads for each KV head.

    INF^2, arXiv 2502.09921, has G = 1, (4 s h + 4 h) / (2 h + 6 h) = (s + 1) / 2; with groups, keys
    and values shrink by G, queries and outputs do not: (4 s h + 4 h) / G over 4 h + 4 h / G.

    >>> near_storage_gain(32_767), near_storage_gain(32_767, 7)
    (16384.0, 4096.0)
    """
    return (context + 1) / (group + 1)


def cached_input_share(link_bytes_per_s: float, storage_bytes_per_s: float) -> float:
    """Share of sequences to keep as layer inputs X, from which the accelerator makes keys and
    values again: 2 B_link / (B_storage + B_link), at most all.

    INF^2's X-cache, arXiv 2502.09921, which assumes that X is half as large as K and V (one query
    head for each KV head), that X comes off the same drives, and that nothing but drives and link
    takes time: drives read S (1 - a / 2) while the link carries a S / 2. Both take as long at this
    a.

    >>> cached_input_share(1.0, 3.0)
    0.5
    """
    return min(1.0, 2 * link_bytes_per_s / (storage_bytes_per_s + link_bytes_per_s))


def rebuilt_share(storage_s: float, rebuild_s: float, busy_s: float = 0.0) -> float:
    """Share a of the context whose keys and values Tier 1 makes again from layer inputs that its
    host's memory keeps: (1 - a) storage_s = busy_s + a rebuild_s, so that drives and Tier 1 end
    together; 0 to 1. Seconds are of a whole step's context: that drives read it all, that Tier 1
    makes it all and attends to it, and ``busy_s`` that Tier 1 works in any case.

    First principles. INF^2's ``cached_input_share`` is another layout: there inputs come off the
    drives too, and the accelerator has nothing else to do.

    >>> rebuilt_share(3.0, 1.0), rebuilt_share(3.0, 1.0, 1.0), rebuilt_share(1.0, 1.0, 2.0)
    (0.75, 0.5, 0.0)
    """
    if storage_s <= busy_s:
        return 0.0
    return min(1.0, (storage_s - busy_s) / (storage_s + rebuild_s))


def read_share(memory: float, held: float) -> float:
    """Share of the KV at a worker that comes from its drives at every step: all but what memory
    has, which is the same for every step, as every step reads all of its sequences' KV once.

    >>> read_share(25, 100), read_share(100, 50)
    (0.75, 0.0)
    """
    return max(0.0, 1 - memory / held) if held else 0.0


def near_storage_speedup(
    storage_bytes_per_s: float, link_bytes_per_s: float, kv_bytes: float, other_s: float = 0.0
) -> float:
    """How many times faster a step is whose KV is read beside the drives than one that moves it
    over the link, with ``other_s`` that both have besides; as much as drives have more bandwidth
    than the link, at most. First principles: (other + KV / link) / (other + KV / storage).

    >>> near_storage_speedup(4.0, 1.0, 100.0), near_storage_speedup(4.0, 1.0, 100.0, 50.0)
    (4.0, 2.0)
    """
    near_s = other_s + kv_bytes / storage_bytes_per_s
    return (other_s + kv_bytes / min(link_bytes_per_s, storage_bytes_per_s)) / near_s


def cached_input_bytes(group: int) -> float:
    """Size of X over that of K and V, where queries are as wide as the hidden state: G / 2. So an
    X-cache saves bytes with one query head for each KV head, and none with more.

    >>> cached_input_bytes(1), cached_input_bytes(8)
    (0.5, 4.0)
    """
    return group / 2


def page_read_bytes(context: int, page_tokens: int, kv_bytes_per_token: float) -> float:
    """A storage tier's reads for one decode row: whole pages; the tail that fills no page is in
    memory (INF^2's delayed write-back, arXiv 2502.09921).

    >>> page_read_bytes(100, 32, 1000)
    96000
    """
    return context // page_tokens * page_tokens * kv_bytes_per_token


def write_back_bytes(entry_bytes: int, staged_tokens: int) -> float:
    """Bytes written for each new token's entry (one head's key, say) when so many are written
    together, by drives that write blocks of 4 KiB. INF^2 (arXiv 2502.09921) stages 16 of 256 bytes.

    >>> write_back_bytes(256, 16), write_back_bytes(256, 2), write_back_bytes(256, 1)
    (256.0, 2048.0, 4096.0)
    """
    return ceil(entry_bytes * staged_tokens / _BLOCK) * _BLOCK / staged_tokens
