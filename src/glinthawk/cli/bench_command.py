"""``glinthawk bench``."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "attention",
    "bench",
    "dense",
    "job",
    "latency",
    "lines",
    "prediction",
    "sampler",
    "scheduler",
    "simulation",
    "storage",
    "tiers",
]

_Quick = Annotated[bool, typer.Option("--quick", help="A look in a minute.")]
_Sampled = Annotated[
    bool, typer.Option("--sampled", help="At temperature 0.8 and top-p 0.95, in place of greedy.")
]

bench = typer.Typer(
    help="Measure this machine: the ceiling first, then what is reached, then one JSON line.",
    no_args_is_help=True,
)


@bench.command()
def attention(quick: _Quick = False) -> None:
    """Tier-2 attention against the speed of memory."""
    from glinthawk.bench.attention import run

    run(typer.echo, quick=quick)


@bench.command()
def dense(quick: _Quick = False) -> None:
    """Tier 1's dense step against its linear layers alone."""
    from glinthawk.bench.dense import run

    run(typer.echo, quick=quick)


@bench.command()
def tiers(quick: _Quick = False, sampled: _Sampled = False) -> None:
    """Two tiers against one where KV memory is scarce."""
    from glinthawk.bench.tiers import run

    run(typer.echo, quick=quick, sampled=sampled)


@bench.command()
def latency(quick: _Quick = False) -> None:
    """Two tiers over links of different length, with KV to spare."""
    from glinthawk.bench.latency import run

    run(typer.echo, quick=quick)


@bench.command()
def job(
    quick: _Quick = False,
    sampled: _Sampled = False,
    requests: Annotated[int | None, typer.Option(help="Requests of the job.")] = None,
) -> None:
    """A whole job on one tier, on two, and on both at once, where KV memory is scarce."""
    from glinthawk.bench.whole_job import run

    run(typer.echo, quick=quick, requests=requests, sampled=sampled)


@bench.command()
def storage(
    quick: _Quick = False,
    folder: Annotated[
        Path, typer.Option("--dir", help="A folder on the drive to measure, with 3 GiB free.")
    ] = Path(),
) -> None:
    """Attention near storage against the drive's own speed, and against fetching KV."""
    from glinthawk.bench.kv_on_drives import run

    run(typer.echo, folder.resolve(), quick=quick)


@bench.command()
def prediction(quick: _Quick = False) -> None:
    """The planner's simulator against real jobs on this machine."""
    from glinthawk.bench.prediction import run

    run(typer.echo, quick=quick)


@bench.command()
def simulation(quick: _Quick = False) -> None:
    """How many tokens the planner's simulator simulates in a second."""
    from glinthawk.bench.simulation import run

    run(typer.echo, quick=quick)


@bench.command()
def sampler(quick: _Quick = False) -> None:
    """Choosing tokens against one softmax over the same logits."""
    from glinthawk.bench.sampling_speed import run

    run(typer.echo, quick=quick)


@bench.command()
def scheduler(
    quick: _Quick = False,
    most: Annotated[int | None, typer.Option(help="Most sequences that live at once.")] = None,
) -> None:
    """What the scheduler takes for each event of a sequence, by how many are living."""
    from glinthawk.bench.scheduling import run

    run(typer.echo, quick=quick, most=most)


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
    from glinthawk.bench.input_lines import run

    run(typer.echo, folder.resolve(), quick=quick, lines=lines)
