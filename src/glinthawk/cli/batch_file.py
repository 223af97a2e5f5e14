"""A batch file from its first line to the exit status."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from glinthawk.cli.events import keep_events
from glinthawk.cli.job_options import JobOptions
from glinthawk.cli.outputs import open_trace
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import GlinthawkError, UsageError
from glinthawk.core.plan import Plan
from glinthawk.core.source import identify_model, resolve_model
from glinthawk.core.units import format_size
from glinthawk.engine.interrupt import drain_on_interrupt
from glinthawk.engine.run import Run, open_run
from glinthawk.jobs.job import Job
from glinthawk.jobs.journal import Journal
from glinthawk.jobs.text import Text
from glinthawk.telemetry.limit import name_limit
from glinthawk.telemetry.progress import make_meter
from glinthawk.telemetry.stats import RunStats

__all__ = ["answer_file", "fingerprint_of"]

#: What an answer depends on. Another value of any of these is another job. So are other types of
#: numbers and another length, which are known when the model is loaded (``Run.resolved``).
_FINGERPRINT = ("load_format", "seed")


def fingerprint_of(config: EngineConfig) -> dict[str, Any]:
    """What the answers of a job with ``config`` depend on, but for its input."""
    fingerprint = {name: getattr(config, name) for name in _FINGERPRINT}
    return {"model": identify_model(config.model), **fingerprint}


def answer_file(
    config: EngineConfig,
    source: Path,
    output: Path,
    options: JobOptions,
    plan: Plan | None = None,
) -> int:
    """Answer ``source`` in ``output``; returns the exit status. ``plan`` is stored with the job,
    if ``config`` follows one."""
    quiet = options.quiet
    console = Console(stderr=True, quiet=quiet, soft_wrap=True, highlight=False)
    if quiet:
        _hush_libraries()
    with Journal.open(
        source,
        output,
        fingerprint_of(config),
        plan=plan,
        restart=options.restart,
        retry_errors=options.retry_errors,
    ) as journal:
        left = journal.survey.num_requests - journal.num_done + journal.num_to_retry
        if journal.num_done and not left:
            console.print(f"every line has its result already{_errors(journal)}: {output}")
            return 1 if journal.num_failed else 0
        if journal.num_resumed:
            console.print(
                f"resuming: {journal.num_resumed} lines have their results{_retried(journal)}"
            )
        with (
            _telling_what_is_safe(journal, console),
            open_trace(options.trace) as trace,
            keep_events(options.event_log, output) as events,
            open_run(config, trace, events) as run,
        ):
            journal.settle(run.resolved)
            stopped = _answer(config, journal, run, options.stats_json, console)
        return _conclude(journal, stopped, output, console)


@contextmanager
def _telling_what_is_safe(journal: Journal, console: Console) -> Iterator[None]:
    try:
        yield
    except GlinthawkError:
        journal.flush()
        if journal.num_done:
            console.print(f"{journal.num_done} results are safe; run it again to resume")
        raise


def _conclude(journal: Journal, stopped: bool, output: Path, console: Console) -> int:
    """The exit status."""
    done, total = journal.num_done, journal.survey.num_requests
    if stopped and done < total:
        console.print(f"stopped; {done} of {total} lines are answered in {output}")
        console.print("run the same command again to resume")
        return 130
    console.print(f"{done} results{_errors(journal)}: {output}")
    return 1 if journal.num_failed else 0


def _errors(journal: Journal) -> str:
    if not journal.num_failed:
        return ", none of them errors"
    return f", {journal.num_failed} of them errors (--retry-errors runs those again)"


def _retried(journal: Journal) -> str:
    if not journal.num_to_retry:
        return ""
    return f", {journal.num_to_retry} of them errors that are run again"


def _hush_libraries() -> None:
    """No loading bars either."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _answer(
    config: EngineConfig, journal: Journal, run: Run, stats_json: Path | None, console: Console
) -> bool:
    """Run the job; whether it was stopped by a signal."""
    failed_before = journal.num_failed
    source = resolve_model(config.model)
    text = Text.load(source, config.trust_remote_code, journal.created)
    job = Job(
        journal,
        text,
        run.limits,
        text.eos_token_ids(source, config.trust_remote_code),
        seed=config.seed,
        model_name=config.model,
    )

    def drain() -> None:
        run.engine.drain()
        console.print("finishing the answers that have begun; Ctrl-C again stops at once")

    with drain_on_interrupt(drain) as stopped, make_meter(quiet=console.quiet) as meter:

        def after_step() -> None:
            job.tick()
            progress = job.progress
            meter.update(progress.answered, progress.total, progress.completion_tokens)

        answers = run.engine.generate(job.requests(), job.stop_found, after_step)
        with closing(answers):
            for sequence in answers:
                job.finish(sequence)
        after_step()
        was_stopped = stopped()
    journal.flush()
    stats = _stats(job, run, failed_before)
    _report(stats, console)
    if stats_json is not None:
        _save_stats(stats, stats_json)
    return was_stopped


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
