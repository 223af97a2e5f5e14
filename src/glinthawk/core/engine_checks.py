"""Which settings of an engine do not go together."""

from typing import TYPE_CHECKING

from glinthawk.core.errors import UsageError
from glinthawk.core.lora import adapter_names

if TYPE_CHECKING:
    from glinthawk.core.config import EngineConfig

__all__ = ["check_together"]


def check_together(config: "EngineConfig") -> None:
    """Raises UsageError that says which do not."""
    for check in (
        _check_places,
        _check_joiners,
        _check_placement,
        _check_xcache,
        _check_invariance,
    ):
        check(config)


def _check_joiners(config: "EngineConfig") -> None:
    if config.joiners is None:
        if config.allow_joiner:
            raise UsageError("`allow_joiner` goes with `joiners`: say where workers may join")
        return
    if config.joiners.startswith("tcp+plain:"):
        raise UsageError("`joiners` listens on tcp, where keys are checked, or on ipc")
    if config.cluster is not None:
        raise UsageError("`joiners` goes without `cluster`: a home there has a worker of each node")
    if config.split_attention != "sequence" or config.xcache:
        raise UsageError(
            "`joiners` goes with `split_attention` sequence and without `xcache`: else the workers "
            "of the beginning share all that is kept"
        )


def _check_places(config: "EngineConfig") -> None:
    if config.cluster is not None and config.tier2:
        raise UsageError("`cluster` names the workers; leave `tier2` out")
    for name in ("slices", "workers_per_slice"):
        if getattr(config, name) is not None and config.cluster != "ray":
            raise UsageError(f"`{name}` goes with `cluster` ray only")
    if config.cluster is None and not config.tier2 and config.tier1_kv_bytes == 0:
        raise UsageError(
            "there is no memory for the KV cache: give `tier1_kv` a size or name workers in `tier2`"
        )
    if config.split_attention != "sequence" and not (config.tier2 or config.cluster):
        raise UsageError(
            f"`split_attention` {config.split_attention} splits over workers: name some in `tier2`"
        )


def _check_placement(config: "EngineConfig") -> None:
    if config.kv_placement == "near":
        return
    if not (config.tier2 or config.cluster):
        raise UsageError("`kv_placement` fetch reads KV from workers: name some in `tier2`")
    if config.split_attention != "sequence":
        raise UsageError("`kv_placement` fetch goes with `split_attention` sequence only")
    if config.device == "cuda":
        raise UsageError("`kv_placement` fetch attends on a CPU: use `device` cpu, or near")


def _check_xcache(config: "EngineConfig") -> None:
    if config.xcache and config.cluster is not None:
        raise UsageError("nodes of a cluster keep no X-cache: leave `xcache` out, or `cluster`")
    if config.xcache and adapter_names(config.lora):
        raise UsageError("`xcache` goes with one `lora` without a name, that all requests take")
    if config.xcache and not config.tier2:
        raise UsageError("`xcache` is a share of what workers hold: name some in `tier2`")
    if config.xcache and config.split_attention != "sequence":
        raise UsageError(
            f"`xcache` goes with `split_attention` sequence, not with {config.split_attention}"
        )
    if config.xcache and config.kv_placement != "near":
        raise UsageError("`xcache` goes with `kv_placement` near: the rest is attended at workers")
    if config.xcache_memory is not None and not config.xcache:
        raise UsageError("`xcache_memory` goes with `xcache`: give that a share")


def _check_invariance(config: "EngineConfig") -> None:
    if not config.batch_invariant:
        return
    if config.split_attention == "tokens" or config.xcache:
        raise UsageError(
            "`batch_invariant` does not go with `split_attention` tokens, nor with `xcache`: "
            "parts of a sequence are merged in an order that depends on where they lie"
        )
    if config.kv_placement != "near":
        raise UsageError("`batch_invariant` goes with `kv_placement` near")
