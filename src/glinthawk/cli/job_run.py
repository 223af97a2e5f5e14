"""The run of a batch file's lines: a model, an engine, a job, and what is told of them."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path

import msgspec
from rich.console import Console

from glinthawk.cli.dashboard_option import showing
from glinthawk.cli.events import keep_events
from glinthawk.cli.job_options import JobOptions
from glinthawk.cli.outputs import open_trace
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import UsageError, WorkerError
from glinthawk.core.lora import adapter_names
from glinthawk.core.source import resolve_model
from glinthawk.core.units import format_size
from glinthawk.engine.interrupt import drain_on_interrupt
from glinthawk.engine.run import Run, open_run
from glinthawk.jobs.front import TextProcesses, choose_processes
from glinthawk.jobs.job import Job
from glinthawk.jobs.journal import Journal
from glinthawk.jobs.line_rules import LineRules
from glinthawk.jobs.text import Text
from glinthawk.telemetry.limit import name_limit
from glinthawk.telemetry.progress import make_meter
from glinthawk.telemetry.stats import RunStats
from glinthawk.tokens.generation_defaults import load_sampling_defaults
from glinthawk.tokens.pooler import load_pooler

__all__ = ["answer_lines"]


def answer_lines(
    config: EngineConfig,
    rules: LineRules,
    output: Path,
    options: JobOptions,
    journal: Journal,
    console: Console,
) -> bool:
    """Load the model and answer what has no result yet; whether a signal has stopped that."""
    _hush_libraries(options.quiet)
    survey = journal.survey
    num_left = survey.num_requests - journal.num_done + journal.num_to_retry
    with (
        open_trace(options.trace) as trace,
        keep_events(options.event_log, output) as events,
        # Forked while this process has a single thread.
        _text_processes(config, options, num_left, journal.created) as processes,
        open_run(config, trace, events) as run,
    ):
        journal.settle(run.resolved)
        failed_before = journal.num_failed
        job = _open_job(config, rules, journal, run, processes)
        with showing(options.dashboard, config.model, journal.source.name, run, job, console):
            stopped = _run_job(job, run, console)
        stats = _stats(job, run, failed_before)
        _report(stats, console)
        if options.stats_json is not None:
            _save_stats(stats, options.stats_json)
    return stopped


def _hush_libraries(quiet: bool) -> None:
    """Their bars would stand beside ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    if quiet:
        logging.set_verbosity_error()


def _text_processes(
    config: EngineConfig, options: JobOptions, num_lines: int, created: int
) -> AbstractContextManager[TextProcesses | None]:
    """Those that do a job's text work beside the engine, if any."""
    count = options.text_processes
    if count is None:
        count = choose_processes(num_lines)
    if not count:
        return nullcontext()
    return TextProcesses.begun(count, lambda: _load_text(config, created))


def _load_text(config: EngineConfig, created: int) -> Text:
    return Text.load(resolve_model(config.model), config.trust_remote_code, created)


def _open_job(
    config: EngineConfig,
    rules: LineRules,
    journal: Journal,
    run: Run,
    processes: TextProcesses | None,
) -> Job:
    source = resolve_model(config.model)
    text = _load_text(config, journal.created)
    return Job(
        journal,
        text,
        run.limits,
        text.eos_token_ids(source, config.trust_remote_code),
        seed=config.seed,
        model_name=config.model,
        rules=rules,
        defaults=load_sampling_defaults(source) if rules.takes_defaults else {},
        processes=processes,
        pooler=load_pooler(source, config.trust_remote_code),
        adapters=adapter_names(config.lora),
    )


def _run_job(job: Job, run: Run, console: Console) -> bool:
    def drain() -> None:
        run.engine.drain()
        console.print("finishing the answers that have begun; Ctrl-C again stops at once")

    meter = make_meter(quiet=console.quiet, console=console)
    with drain_on_interrupt(drain) as stopped, meter:

        def after_step() -> None:
            job.tick()
            progress = job.progress
            meter.update(progress.answered, progress.total, progress.completion_tokens)

        answers = run.engine.generate(job.requests(), job.stop_found, after_step)
        with closing(answers), _writing_all(job):
            for sequence in answers:
                job.finish(sequence)
        after_step()
        return stopped()


@contextmanager
def _writing_all(job: Job) -> Iterator[None]:
    """What was answered is written, also where Tier 1 or Tier 2 has failed."""
    try:
        yield
    except WorkerError:
        job.flush()
        raise
    job.flush()


def _save_stats(stats: RunStats, path: Path) -> None:
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(stats)) + b"\n")
    except OSError as error:
        raise UsageError(f"--stats-json: cannot write {path}: {error.strerror}") from error


def _stats(job: Job, run: Run, failed_before: int) -> RunStats:
    stats, progress = run.stats(), job.progress
    stats.requests = progress.answered - progress.resumed
    stats.failed = progress.failed - failed_before
    stats.prompt_tokens = progress.prompt_tokens
    stats.completion_tokens = progress.completion_tokens
    stats.tokens_per_second = progress.completion_tokens / stats.seconds
    stats.limit = name_limit(stats)
    return stats


def _report(stats: RunStats, console: Console) -> None:
    """What each tier did, in a few lines."""
    console.print(
        f"{stats.completion_tokens} tokens in {stats.seconds:.1f} s "
        f"({stats.tokens_per_second:,.0f} tokens/s), KV peak {format_size(stats.kv_bytes_peak)}, "
        f"{stats.preemptions} pre-emptions"
    )
    if stats.prompt_tokens_shared:
        console.print(
            f"common prefixes: {stats.prompt_tokens_shared} of {stats.prompt_tokens} prompt tokens "
            "were not computed again"
        )
    if stats.drafted_tokens:
        console.print(
            f"speculation: {stats.accepted_tokens} of {stats.drafted_tokens} guessed tokens were "
            "right"
        )
    if stats.xcache_bytes_peak:
        console.print(f"x-cache peak {format_size(stats.xcache_bytes_peak)}")
    console.print(f"tier 1: busy {stats.tier1_busy:.0%}")
    for number, busy in enumerate(stats.tier2_busy, start=1):
        console.print(f"tier 2, worker {number}: busy {busy:.0%}")
    if stats.tier2_busy:
        console.print(
            f"link: decode {format_size(stats.wire_decode_bytes_out)} out, "
            f"{format_size(stats.wire_decode_bytes_back)} back; "
            f"prompts {format_size(stats.wire_prefill_bytes)}"
        )
    console.print(f"limit: {stats.limit}")
