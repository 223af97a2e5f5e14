"""``glinthawk run``."""

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from glinthawk.cli.outputs import check_output
from glinthawk.core.config import (
    Dense,
    Device,
    Dtype,
    EngineConfig,
    KvDtype,
    KvPlacement,
    LoadFormat,
    SplitAttention,
)
from glinthawk.core.errors import UsageError
from glinthawk.core.plan import Plan

__all__ = ["run"]

_DEFAULT = EngineConfig(model="")


def run(
    context: typer.Context,
    model: Annotated[
        str, typer.Option("-m", "--model", help="Folder in Hugging Face format, hub name, or demo.")
    ],
    input: Annotated[
        Path, typer.Option("-i", "--input", help="OpenAI batch lines, one request a line.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", help="Result lines are appended here.", callback=check_output
        ),
    ],
    tier2: Annotated[
        list[str] | None,
        typer.Option(
            help="local:N starts N workers here; tcp://host:port?key=KEY joins one (repeatable), "
            "tcp+plain://host:port?password=PASSWORD without encryption. "
            "None: all attention on Tier 1."
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="TOML file of the nodes and workers to lay the model over; or ray: they are "
            "actors of the Ray cluster that runs here, or of one that is started for this run."
        ),
    ] = None,
    slices: Annotated[
        int | None,
        typer.Option(help="With --cluster ray: nodes in a row. Default: one for every GPU, or 1."),
    ] = None,
    workers_per_slice: Annotated[
        int | None,
        typer.Option(
            help="With --cluster ray: workers of each node, with --worker-kv each. Default: one "
            "for every machine."
        ),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            help="As `glinthawk plan --out` wrote it: batches, KV and workers are its, but for "
            "what other flags say."
        ),
    ] = None,
    tier1_kv: Annotated[
        str | None,
        typer.Option(help="KV cache on Tier 1 itself. Default: 2GiB without workers, else 0."),
    ] = None,
    worker_kv: Annotated[str, typer.Option(help="KV cache of each worker started here.")] = str(
        _DEFAULT.worker_kv
    ),
    worker_storage: Annotated[
        list[str] | None,
        typer.Option(
            help="DIR:SIZE on a drive for KV that --worker-kv does not hold, for each worker "
            "started here (repeatable, one for each drive)."
        ),
    ] = None,
    split_attention: Annotated[
        SplitAttention,
        typer.Option(
            help="What each worker keeps: whole sequences; some KV heads of all sequences; or some "
            "tokens, so that one sequence may outgrow every worker."
        ),
    ] = _DEFAULT.split_attention,
    kv_placement: Annotated[
        KvPlacement,
        typer.Option(
            help="Where workers' KV is attended: near, at the workers; fetch, the baseline to "
            "compare with: it is read over the link in every step and attended on Tier 1."
        ),
    ] = _DEFAULT.kv_placement,
    xcache: Annotated[
        float,
        typer.Option(
            metavar="ALPHA",
            help="Of this share of every sequence, 0 to below 1, Tier 1 keeps the inputs of "
            "attention in place of K and V and rebuilds those, so that workers hold and read so "
            "much less. Pays where every query head has a KV head of its own.",
        ),
    ] = _DEFAULT.xcache,
    xcache_memory: Annotated[
        str | None,
        typer.Option(
            help="Most memory of --xcache, for all workers. Default: as much as goes with their KV."
        ),
    ] = None,
    kv_dtype: Annotated[
        KvDtype, typer.Option(help="Type of the KV cache; auto: as --dtype.")
    ] = _DEFAULT.kv_dtype,
    dtype: Annotated[
        Dtype, typer.Option(help="Type of weights; auto: as the model says.")
    ] = _DEFAULT.dtype,
    device: Annotated[
        Device, typer.Option(help="Where Tier 1 runs; auto: a GPU if any.")
    ] = _DEFAULT.device,
    load_format: Annotated[
        LoadFormat, typer.Option(help="dummy: random weights from config.json alone.")
    ] = _DEFAULT.load_format,
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Run code that comes with the model's files."),
    ] = False,
    dense: Annotated[
        Dense,
        typer.Option(
            help="auto: layers are packed for this CPU, or become CUDA graphs; plain: left alone."
        ),
    ] = _DEFAULT.dense,
    batch_invariant: Annotated[
        bool,
        typer.Option(
            "--batch-invariant",
            help="Answers are the same bits for any batch, layout, interruption and resume, on "
            "machines alike. `glinthawk bench dense` prints what it costs.",
        ),
    ] = False,
    batch_size: Annotated[
        str, typer.Option(help="Most sequences that step together, or auto.")
    ] = str(_DEFAULT.batch_size),
    batches_in_flight: Annotated[
        str,
        typer.Option(
            help="Batches under way at one time, or auto, which also leaves workers alone where "
            "they do not pay beside --tier1-kv."
        ),
    ] = str(_DEFAULT.batches_in_flight),
    batch_tokens: Annotated[
        int, typer.Option(help="Most tokens of one step; a longer prompt is its step's only one.")
    ] = _DEFAULT.batch_tokens,
    max_model_len: Annotated[
        int | None, typer.Option(help="Longest prompt plus answer. Default: the model's.")
    ] = None,
    seed: Annotated[
        int, typer.Option(help="For requests that bring no seed of their own.")
    ] = _DEFAULT.seed,
    identity: Annotated[
        Path | None, typer.Option(help="File of this user's key pair. Default: one for each user.")
    ] = None,
    worker_timeout: Annotated[
        float,
        typer.Option(
            help="Seconds of silence after which a worker is given up; longer than its largest "
            "parcel takes on the link."
        ),
    ] = _DEFAULT.worker_timeout,
    wait_for_workers: Annotated[
        float, typer.Option(help="Seconds to wait for a worker when none is left.")
    ] = _DEFAULT.wait_for_workers,
    stats_json: Annotated[
        Path | None,
        typer.Option(help="Write the numbers of this run here.", callback=check_output),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="Write what ran when here, as a Chrome trace (ui.perfetto.dev).",
            callback=check_output,
        ),
    ] = None,
    event_log: Annotated[
        Path | None,
        typer.Option(
            help="Write every event of the scheduler here, for `glinthawk replay`; token ids of "
            "prompts and answers are in it.",
            callback=check_output,
        ),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew; the old output is moved aside.")
    ] = False,
    retry_errors: Annotated[
        bool,
        typer.Option(
            "--retry-errors",
            help="Run lines again whose result is an error; with more KV memory, or a longer "
            "--max-model-len, which also runs again what the shorter one cut off.",
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Answer every line of a batch file. Run the same command again to resume.

    Exit status: 0 every line was answered; 1 some results are errors; 2 the command could not run;
    130 stopped by Ctrl-C.
    """
    settings = _settings(context)
    if restart and retry_errors:
        raise UsageError("--restart runs every line again; give that or --retry-errors")
    laid = Plan.load(plan) if plan is not None else None
    if laid is not None:
        from glinthawk.cli.planned import follow

        settings |= follow(laid, settings, _given(context))
    from glinthawk.cli.batch_file import answer_file

    raise typer.Exit(
        answer_file(
            EngineConfig(**settings),
            input,
            output,
            stats_json=stats_json,
            trace_file=trace,
            event_file=event_log,
            restart=restart,
            retry_errors=retry_errors,
            quiet=quiet,
            plan=laid,
        )
    )


def _settings(context: typer.Context) -> dict[str, Any]:
    """What the flags say of the run: those of EngineConfig's names."""
    flags = context.params
    settings = {field.name: flags[field.name] for field in fields(EngineConfig)}
    for name in ("tier2", "worker_storage"):
        settings[name] = tuple(flags[name] or ())
    for name in ("batch_size", "batches_in_flight"):
        settings[name] = _count(f"--{name.replace('_', '-')}", flags[name])
    if flags["identity"] is not None:
        settings["identity"] = str(flags["identity"])
    return settings


def _given(context: typer.Context) -> set[str]:
    """Parameters that the command line has."""
    return {
        name
        for name in context.params
        if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE"
    }


def _count(flag: str, text: str) -> Any:
    """``auto`` or a number; EngineConfig checks the range."""
    if text == "auto" or text.isdecimal():
        return text if text == "auto" else int(text)
    raise typer.BadParameter(f"{text!r} is neither auto nor a number", param_hint=flag)
