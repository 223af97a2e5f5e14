"""``python -m bench``: its commands."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "bench",
    "chunks",
    "files",
    "gpu",
    "latency",
    "lines",
    "loading",
    "lookup",
    "lora",
    "membership",
    "prediction",
    "quantized",
    "sampler",
    "scheduler",
    "schemas",
    "serve",
    "short",
    "simulation",
    "slices",
    "storage",
    "structured",
    "xcache",
]

_Quick = Annotated[bool, typer.Option("--quick", help="A look in a minute.")]

bench = typer.Typer(
    help="Measurements for who works on glinthawk; those for its users are in `glinthawk bench`. "
    "The ceiling first, where there is one, then what is reached, then one JSON line.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@bench.command()
def latency(quick: _Quick = False) -> None:
    """Two tiers over links of different length, with KV to spare."""
    from bench.latency import run

    run(typer.echo, quick=quick)


@bench.command()
def storage(
    quick: _Quick = False,
    folder: Annotated[
        Path, typer.Option("--dir", help="A folder on the drive to measure, with 3 GiB free.")
    ] = Path(),
) -> None:
    """Attention near storage against the drive's own speed, and against fetching KV."""
    from bench.kv_on_drives import run

    run(typer.echo, folder.resolve(), quick=quick)


@bench.command()
def xcache(quick: _Quick = False) -> None:
    """What an X-cache spares a worker, and how fast Tier 1 makes up for it."""
    from bench.xcache import run

    run(typer.echo, quick=quick)


@bench.command()
def chunks(
    quick: _Quick = False,
    long: Annotated[
        int | None, typer.Option(help="Tokens of the long prompt.", show_default="64000")
    ] = None,
    short: Annotated[
        int | None, typer.Option(help="Short prompts beside it.", show_default="500")
    ] = None,
) -> None:
    """Long prompts in chunks: where to attend, and how long short sequences wait."""
    from bench.chunked_prefill import run

    long, short = long or (8192 if quick else 64_000), short or (50 if quick else 500)
    run(typer.echo, long=long, short=short, quick=quick)


@bench.command()
def gpu(
    parts: Annotated[
        list[str] | None, typer.Argument(help="Of dense, jobs and peer.", show_default="all")
    ] = None,
    device: Annotated[str, typer.Option(help="cuda, or cpu to try it out.")] = "cuda",
) -> None:
    """A GPU's roofs, and what dense steps and whole jobs reach of them."""
    from bench.on_gpu import PARTS, GpuPlan, run

    if unknown := set(parts or ()) - PARTS.keys():
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    plan = GpuPlan() if device == "cuda" else GpuPlan.on_cpu()
    run(typer.echo, plan, tuple(parts or PARTS))


@bench.command()
def prediction(quick: _Quick = False) -> None:
    """The planner's simulator against real jobs on this machine."""
    from bench.prediction import run

    run(typer.echo, quick=quick)


@bench.command()
def simulation(quick: _Quick = False) -> None:
    """How many tokens the planner's simulator simulates in a second."""
    from bench.simulation import run

    run(typer.echo, quick=quick)


@bench.command()
def slices(quick: _Quick = False) -> None:
    """CPU time of the slices of a pipeline, with layers shared equally and by their weights."""
    from bench.slices import run

    run(typer.echo, quick=quick)


@bench.command()
def sampler(quick: _Quick = False) -> None:
    """Choosing tokens against one softmax over the same logits."""
    from bench.sampling_speed import run

    run(typer.echo, quick=quick)


@bench.command()
def quantized(quick: _Quick = False) -> None:
    """Products with weights that stay quantised against those in bfloat16, on one thread."""
    from bench.quantized_products import run

    run(typer.echo, quick=quick)


@bench.command()
def structured(quick: _Quick = False) -> None:
    """What structured outputs add to a step's sampling."""
    from bench.structured_answers import run

    run(typer.echo, quick=quick)


@bench.command()
def lora(quick: _Quick = False) -> None:
    """Steps of rows with eight LoRA adapters against steps without any."""
    from bench.adapters import run

    run(typer.echo, quick=quick)


@bench.command()
def lookup(quick: _Quick = False) -> None:
    """Prompt lookup against one token a step, on answers that quote their prompts and others."""
    from bench.prompt_lookup import run

    run(typer.echo, quick=quick)


@bench.command()
def schemas(
    suite: Annotated[
        Path, typer.Option(help="A draft's folder of JSON Schema's test suite, as draft2020-12.")
    ],
) -> None:
    """How much of JSON Schema's test suite structured outputs keep to."""
    from bench.schemas import run

    run(typer.echo, suite)


@bench.command()
def scheduler(
    quick: _Quick = False,
    most: Annotated[int | None, typer.Option(help="Most sequences that live at once.")] = None,
) -> None:
    """What the scheduler takes for each event of a sequence, by how many are living."""
    from bench.scheduling import run

    run(typer.echo, quick=quick, most=most)


@bench.command()
def files(
    quick: _Quick = False,
    lines: Annotated[int | None, typer.Option(help="Of each file. Default: 2,000,000.")] = None,
    folder: Annotated[
        Path, typer.Option("--dir", help="A folder with 2 kB free for each line.")
    ] = Path(),
) -> None:
    """Tables and packed files as requests, and results as such, without a job in between."""
    from bench.file_forms import run

    run(typer.echo, folder.resolve(), quick=quick, lines=lines)


@bench.command()
def lines(
    quick: _Quick = False,
    lines: Annotated[
        int | None, typer.Option(help="Lines of the job. Default: 10,000,000.")
    ] = None,
    folder: Annotated[
        Path, typer.Option("--dir", help="A folder with some 500 bytes free for each line.")
    ] = Path(),
) -> None:
    """The most memory that a job takes for each line of its input, and time, without a model."""
    from bench.input_lines import run

    run(typer.echo, folder.resolve(), quick=quick, lines=lines)


@bench.command()
def short(
    quick: _Quick = False,
    requests: Annotated[
        int | None, typer.Option(help="Requests of the job. Default: 20,000.")
    ] = None,
    processes: Annotated[int, typer.Option(help="For text, in the second run.")] = 1,
) -> None:
    """A job of short answers, and what binds it."""
    from bench.short_answers import run

    run(typer.echo, quick=quick, requests=requests, processes=processes)


@bench.command()
def serve(
    quick: _Quick = False,
    connections: Annotated[int, typer.Option(help="Open at one time.", min=1)] = 64,
) -> None:
    """Single requests to a server whose engine takes no time: what HTTP and text take."""
    from bench.serving import run

    run(typer.echo, quick=quick, connections=connections)


@bench.command()
def loading(
    quick: _Quick = False,
    folder: Annotated[Path, typer.Option("--dir", help="A folder with 2 GB free.")] = Path(),
) -> None:
    """The most memory that loading a model takes, against what the model takes."""
    from bench.loading_memory import run

    run(typer.echo, folder.resolve(), quick=quick)


@bench.command()
def membership(quick: _Quick = False) -> None:
    """How soon a job's speed follows when a worker joins it, and when one leaves."""
    from bench.membership import run

    run(typer.echo, quick=quick)
