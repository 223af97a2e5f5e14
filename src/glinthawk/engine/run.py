"""A run: an engine on Tier 1, wherever that is."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from glinthawk.core.config import EngineConfig
from glinthawk.core.limits import Limits
from glinthawk.core.more_kv import advise_more_kv
from glinthawk.engine.engine import Engine
from glinthawk.engine.event_log import EventLog
from glinthawk.engine.node_opening import OpenNode, open_node
from glinthawk.engine.pipeline_facts import choose_limits, combine_facts
from glinthawk.engine.pipeline_opening import open_pipeline
from glinthawk.engine.tier import ModelFacts, Tier1
from glinthawk.scheduler.batch_limits import BatchLimits, most_scored_rows
from glinthawk.telemetry.reading import Glance
from glinthawk.telemetry.stats import RunStats
from glinthawk.telemetry.trace import Trace

__all__ = ["Run", "open_run", "run_on"]


@dataclass(frozen=True, slots=True)
class Run:
    """An engine with its Tier 1 and what a request must fit in."""

    engine: Engine
    tier1: Tier1
    limits: Limits
    #: What settings came to that answers depend on and that may be left to the model.
    resolved: dict[str, str | int]
    began: float
    #: What was done so far, from any thread; None while nobody knows.
    glance: Callable[[], Glance | None]

    def stats(self) -> RunStats:
        """What each tier did so far."""
        elapsed = time.perf_counter() - self.began
        usage, scheduler = self.tier1.usage(), self.engine.scheduler
        return RunStats(
            seconds=elapsed,
            tier1_busy=statistics.mean(usage.tier1_busy_s) / elapsed,
            tier2_busy=[busy_s / elapsed for busy_s in usage.tier2_busy_s],
            wire_decode_bytes_out=usage.decode_bytes_out,
            wire_decode_bytes_back=usage.decode_bytes_back,
            wire_prefill_bytes=usage.prefill_bytes,
            kv_bytes_peak=usage.kv_bytes_peak,
            xcache_bytes_peak=usage.xcache_bytes_peak,
            preemptions=scheduler.counts.preemptions,
            repeated_tokens=scheduler.counts.repeated_tokens,
            drafted_tokens=scheduler.counts.drafted_tokens,
            accepted_tokens=scheduler.counts.accepted_tokens,
            prompt_tokens_shared=scheduler.counts.shared_tokens,
            kv_full_share=scheduler.counts.cramped / max(1, scheduler.counts.batches),
            input_share=self.engine.input_s / elapsed,
        )


@contextmanager
def open_run(
    config: EngineConfig, trace: Trace | None = None, events: EventLog | None = None
) -> Iterator[Run]:
    """Everything a run needs, on this machine or on those of ``config.cluster``. ``events`` is told
    what the scheduler decides.

    Raises UsageError or WorkerError; then nothing is left behind.
    """
    if config.cluster is None:
        with open_node(config, trace) as opened:
            yield run_on(config, opened, events)
    else:
        with open_pipeline(config) as pipeline:
            loaded = pipeline.loaded()
            limits, facts = choose_limits(config, loaded), combine_facts(loaded)
            yield _start(config, pipeline, limits, facts, pipeline.glances.look, events)


def run_on(config: EngineConfig, opened: OpenNode, events: EventLog | None = None) -> Run:
    """A run on one node in this process."""
    spec = opened.loaded.spec
    facts = ModelFacts(
        spec.dtype, spec.vocab_size, spec.max_model_len, spec.longest_len, opened.arithmetic
    )
    limits, glance = opened.tuning.limits, opened.node.glance
    return _start(config, opened.node, limits, facts, glance, events)


def _start(
    config: EngineConfig,
    tier1: Tier1,
    batches: BatchLimits,
    facts: ModelFacts,
    glance: Callable[[], Glance | None],
    events: EventLog | None,
) -> Run:
    kv_tokens = max(home.num_pages * home.page_tokens for home in tier1.homes())
    more_kv = advise_more_kv(config)
    limits = Limits(facts.max_model_len, kv_tokens, facts.vocab_size, facts.longest_len, more_kv)
    batches = replace(
        batches,
        prompts_at_home=config.batch_invariant,
        scored_rows=most_scored_rows(facts.vocab_size),
    )
    engine = Engine(tier1, batches, config.wait_for_workers, more_kv, events)
    return Run(engine, tier1, limits, _resolve(config, facts), time.perf_counter(), glance)


def _resolve(config: EngineConfig, facts: ModelFacts) -> dict[str, str | int]:
    resolved: dict[str, str | int] = {
        "dtype": facts.dtype,
        "kv_dtype": facts.dtype if config.kv_dtype == "auto" else config.kv_dtype,
        "max_model_len": facts.max_model_len,
    }
    if config.batch_invariant:
        resolved["batch_invariant"] = facts.arithmetic
    return resolved
