"""``glinthawk plan``."""

import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from glinthawk.cli.machines import (
    MachineOptions,
    WorkloadFlag,
    check_kv_dtypes,
    resolve_kv_dtypes,
)
from glinthawk.cli.options import SettingsOf, spread
from glinthawk.cli.outputs import check_output
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import UsageError
from glinthawk.core.shape import ModelShape
from glinthawk.core.units import parse_size
from glinthawk.planner.known_models import shape_of
from glinthawk.planner.machine_layouts import Offer, Rig, measured_rigs, offered_rigs
from glinthawk.planner.profile import Profile
from glinthawk.planner.search import Rank, Search
from glinthawk.planner.workload import Workload

__all__ = ["plan"]

_DEFAULT = EngineConfig(model="")


def _check_report(parameter: typer.CallbackParam, path: Path | None) -> Path | None:
    if path is not None:
        try:
            import matplotlib  # noqa: F401
        except ImportError as error:
            raise UsageError("--report needs matplotlib: pip install 'glinthawk[plots]'") from error
    return check_output(parameter, path)


@spread
def plan(
    *,
    model: Annotated[
        str,
        typer.Option(
            "-m",
            "--model",
            help="A well-known model (Llama-3.1-8B), folder, hub name, GGUF file, or demo.",
        ),
    ],
    workload: WorkloadFlag,
    tier1: Annotated[
        list[str] | None,
        typer.Option(help="Machine of the catalogue with the weights (repeatable)."),
    ] = None,
    tier1_count: Annotated[int, typer.Option(help="Most Tier-1 machines.", min=1)] = 8,
    tier2: Annotated[
        list[str] | None,
        typer.Option(help="Machine of the catalogue for the KV cache (repeatable). None: one tier"),
    ] = None,
    tier2_count: Annotated[int, typer.Option(help="Most Tier-2 machines.", min=0)] = 24,
    rank: Annotated[
        Rank | None,
        typer.Option(help="By dollars for a million generated tokens, or by tokens a second."),
    ] = None,
    machines: MachineOptions,
    memory: Annotated[str, typer.Option(help="With --profile: memory for all KV.")] = str(
        _DEFAULT.worker_kv
    ),
    storage: Annotated[
        str, typer.Option(help="With --profile: drives of the worker for KV, like 2TiB.")
    ] = "0",
    settings: Annotated[
        dict[str, Any], SettingsOf(EngineConfig, ("dtype", "batch_tokens", "trust_remote_code"))
    ],
    kv_dtype: Annotated[
        list[str] | None,
        typer.Option(
            help="Type of the KV cache (repeatable). Default: the model's and int8, or all that "
            "the profile has."
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="Layouts to simulate and show.", min=1)] = 5,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the best plan here, for `run --plan`.", callback=check_output),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Write a page with plots here (HTML, nothing to load). Needs the extra plots.",
            callback=_check_report,
        ),
    ] = None,
) -> None:
    """Find the cheapest or fastest layout of a model for a job: all are estimated, the best few
    simulated with the scheduler that a run has."""
    from glinthawk.cli.formatting import show

    kv, config = check_kv_dtypes(kv_dtype or []), EngineConfig(model=model, **settings)
    work, shape = Workload.parse(workload), shape_of(model, config.dtype, config.trust_remote_code)
    _check_lengths(work, shape)
    dropped: Counter[str] = Counter()
    rank = rank or ("cost" if machines.profile is None else "speed")
    rigs: Iterable[Rig]
    if machines.profile is not None:
        _check_no_catalogue(tier1, tier2, machines.catalogue)
        measured = Profile.load(machines.profile)
        link = machines.link(measured)
        dtypes = resolve_kv_dtypes(kv, shape.dtype)
        rigs = measured_rigs(shape, measured, parse_size(memory), dtypes, link, parse_size(storage))
        source = _describe(measured)
    else:
        _check_no_storage(storage)
        offer = Offer(
            tier1=machines.find(tier1 or _no_machine()),
            tier2=machines.find(tier2 or []),
            tier1_count=tier1_count,
            tier2_count=tier2_count,
            latency_s=machines.latency_s,
        )
        _check_prices(offer, rank)
        dtypes = resolve_kv_dtypes(kv or ("auto", "int8"), shape.dtype)
        rigs = offered_rigs(shape, offer, dtypes, dropped)
        source = "not measured: from the catalogue"
    search = Search(model, work, rank, batch_tokens=config.batch_tokens, dropped=dropped)
    found = search.run(rigs, top)
    show(found, rank, source)
    if out is not None:
        _write(out, lambda: found.best[0].plan.save(out))
        typer.echo(f"the best plan: {out} (glinthawk run -m {model} --plan {out} ...)")
    if report is not None:
        from glinthawk.planner.report import write_report

        command = shlex.join(["glinthawk", *sys.argv[1:]])
        _write(report, lambda: write_report(report, found, search, work, rank, source, command))
        typer.echo(f"report: {report}")


def _describe(measured: Profile) -> str:
    return (
        f"measured on {measured.machine}, {measured.date}: Tier 1 on "
        f"{measured.tier1_threads} cores, a worker on {measured.worker_threads or 'others'}"
    )


def _check_no_catalogue(*flags: object) -> None:
    if any(flags):
        raise UsageError("--profile is of this machine; leave --tier1, --tier2, --catalogue out")


def _check_no_storage(storage: str) -> None:
    if parse_size(storage):
        raise UsageError(
            "--storage goes with --profile; a machine of the catalogue has drives if it says "
            "storage and storage_reads (--catalogue FILE for yours)"
        )


def _write(path: Path, write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _no_machine() -> list[str]:
    raise UsageError(
        "name a machine of the catalogue with --tier1 (T4, A100-80G, ...), or measure this one: "
        "glinthawk profile, then --profile FILE"
    )


def _check_lengths(work: Workload, shape: ModelShape) -> None:
    longest = max(map(sum, work.lengths))
    if longest > shape.max_model_len:
        raise UsageError(
            f"the longest sequence of the workload has {longest} tokens, {shape.name} takes "
            f"{shape.max_model_len}; give a shorter --workload"
        )


def _check_prices(offer: Offer, rank: Rank) -> None:
    unpriced = [one.name for one in (*offer.tier1, *offer.tier2) if one.dollars_per_hour is None]
    if rank == "cost" and unpriced:
        raise UsageError(
            f"{unpriced[0]} has no price: give it dollars_per_hour in a file for --catalogue, or "
            "use --rank speed"
        )
