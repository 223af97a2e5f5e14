"""What nodes that have loaded their slices say of the model together."""

from collections.abc import Sequence

from glinthawk.core.config import EngineConfig
from glinthawk.engine.node_link import NodeLink
from glinthawk.engine.tier import ModelFacts
from glinthawk.scheduler.batch_limits import BatchLimits, DraftLimits, batches_to_hide
from glinthawk.scheduler.step_cost import StepCost
from glinthawk.wire.control import Loaded

__all__ = ["choose_limits", "combine_facts", "idle_together_s", "step_seconds"]


def combine_facts(loaded: Sequence[Loaded]) -> ModelFacts:
    """Of the whole model."""
    return ModelFacts(
        dtype=loaded[0].dtype,
        vocab_size=loaded[0].vocab_size,
        max_model_len=min(part.max_model_len for part in loaded),
        longest_len=min(part.longest_len for part in loaded),
        arithmetic=" and ".join(sorted({part.arithmetic for part in loaded})),
    )


def idle_together_s(stages: Sequence[NodeLink]) -> float:
    """How long all of them have had nothing to do at the same time, by their own clock; 0 if one
    has something to do, or does not say."""
    idle = [stage.channel.idle for stage in stages if stage.channel and stage.loaded]
    spans = [span for span in idle if span is not None]
    if len(spans) < len(stages):
        return 0.0
    since_ms = max(span.since_ms for span in spans)
    return (min(span.until_ms for span in spans) - since_ms) / 1000


def step_seconds(loaded: Sequence[Loaded]) -> list[float]:
    """Of each slice, for the batch that all can take; 0 where nothing was measured."""
    rows = min(part.batch_size for part in loaded)
    return [StepCost(part.dense, {}, {}).dense_s(rows) if part.dense else 0.0 for part in loaded]


def choose_limits(config: EngineConfig, loaded: Sequence[Loaded]) -> BatchLimits:
    """What the user said, and for what is ``auto`` what the nodes measured: the batch of the
    smallest, and as many batches as hide the others behind the slowest slice."""
    slowest = max(step_seconds(loaded))
    link_s = sum(part.link_s for part in loaded)
    size, in_flight = config.batch_size, config.batches_in_flight
    return BatchLimits(
        min(part.batch_size for part in loaded) if size == "auto" else size,
        batches_to_hide(link_s, slowest, len(loaded)) if in_flight == "auto" else in_flight,
        config.batch_tokens,
        drafts=_limit_drafts(config, loaded),
        rope=loaded[0].rope,
    )


def _limit_drafts(config: EngineConfig, loaded: Sequence[Loaded]) -> DraftLimits | None:
    """By the slowest slice, which the others keep waiting where too few batches are under way."""
    most = config.num_speculative_tokens
    if config.speculation != "auto":
        return None if config.speculation == "off" else DraftLimits(most)
    curves = [part.draft_s or ((1, 0.0),) for part in loaded]
    slowest = max(curves, key=lambda curve: curve[0][1])
    others_s = sum(curve[0][1] for curve in curves) - slowest[0][1]
    return DraftLimits(most, slowest, others_s + sum(part.draft_link_s for part in loaded))
