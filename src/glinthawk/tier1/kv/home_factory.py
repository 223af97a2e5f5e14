"""How workers become homes."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from glinthawk.core.config import SplitAttention
from glinthawk.core.spec import ModelSpec
from glinthawk.tier1.device.staging import Staging
from glinthawk.tier1.kv.fetching import FetchHome, PageAttention
from glinthawk.tier1.kv.head_split import HeadSplitHome
from glinthawk.tier1.kv.home import WorkerHome
from glinthawk.tier1.kv.own_part import OwnShare
from glinthawk.tier1.kv.remote import RemoteHome
from glinthawk.tier1.kv.token_split import STRIPE_PAGES, RangeSplitHome
from glinthawk.wire.client_channel import ClientChannel

__all__ = ["group_workers", "make_home"]

_Worker = TypeVar("_Worker")


def group_workers(split: SplitAttention, workers: Sequence[_Worker]) -> list[list[_Worker]]:
    """The workers of each home: one, or all of them."""
    if split == "sequence" or not workers:
        return [[worker] for worker in workers]
    return [list(workers)]


def make_home(
    split: SplitAttention,
    id: int,
    channels: Sequence[ClientChannel],
    spec: ModelSpec,
    device: torch.device,
    staging: Callable[[], Staging | None] = lambda: None,
    stripe_pages: int = STRIPE_PAGES,
    attention: PageAttention | None = None,
    own: OwnShare | None = None,
) -> WorkerHome:
    """A home at the workers behind ``channels``, whose sessions are not open yet; with
    ``attention``, a worker's KV is attended here; with ``own``, Tier 1 keeps a part of it.

    Raises UsageError when the model's KV heads cannot be shared among so many workers.
    """
    if attention is not None:
        (channel,) = channels
        return FetchHome(id, channel, spec, attention)
    if len(channels) == 1 and own is None:
        return RemoteHome(id, channels[0], spec, device, staging())
    if split == "heads":
        return HeadSplitHome(id, channels, spec, device, staging)
    return RangeSplitHome(id, channels, spec, device, staging, stripe_pages, own)
