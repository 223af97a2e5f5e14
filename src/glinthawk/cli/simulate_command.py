"""``glinthawk simulate``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from glinthawk.cli.machines import MachineOptions, WorkloadFlag
from glinthawk.cli.options import SettingsOf, spread
from glinthawk.cli.outputs import check_output, open_trace
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import UsageError
from glinthawk.core.plan import Plan
from glinthawk.core.shape import ModelShape
from glinthawk.core.units import format_size
from glinthawk.planner.costs import LinkCost, SliceCosts
from glinthawk.planner.known_models import shape_of
from glinthawk.planner.measured import Measured
from glinthawk.planner.outcome import Outcome
from glinthawk.planner.profile import Profile
from glinthawk.planner.roofline import roofline_slices
from glinthawk.planner.simulator import Simulator
from glinthawk.planner.workload import Workload

__all__ = ["simulate"]

#: Requests unless told: so many times what may be under way, but no more than a minute or so.
_TURNOVERS, _MOST = 3, 3000


@spread
def simulate(
    *,
    plan: Annotated[Path, typer.Option(help="A plan, as `glinthawk plan --out` writes it.")],
    workload: WorkloadFlag,
    requests: Annotated[
        int | None,
        typer.Option(
            help=f"Requests of the job. Default: {_TURNOVERS} times what may be under way, at most "
            f"{_MOST}.",
            min=1,
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("-m", "--model", help="Its shape. Default: the plan's model.")
    ] = None,
    tier1: Annotated[
        str | None, typer.Option(help="Machine of the catalogue. Default: the plan's.")
    ] = None,
    tier2: Annotated[
        str | None, typer.Option(help="Machine of the catalogue. Default: the plan's.")
    ] = None,
    machines: MachineOptions,
    slow: Annotated[
        list[str] | None,
        typer.Option(help="2:1.5 makes worker 2 of every slice 1.5 times slower (repeatable)."),
    ] = None,
    loading: Annotated[dict[str, Any], SettingsOf(EngineConfig, ("dtype", "trust_remote_code"))],
    trace: Annotated[
        Path | None,
        typer.Option(
            help="Write what ran when here, as `run --trace` does (ui.perfetto.dev).",
            callback=check_output,
        ),
    ] = None,
) -> None:
    """Run a job on a virtual clock: the scheduler is that of a run, what takes time is computed."""
    laid, work = Plan.load(plan), Workload.parse(workload)
    shape = shape_of(model or laid.model, **loading)
    if machines.profile is not None:
        measured = Profile.load(machines.profile)
        costs = _measured(laid, shape, measured, machines.link(measured))
        typer.echo(f"measured on {measured.machine}, {measured.date}")
    else:
        near, far = tier1 or laid.tier1_machine, tier2 or laid.tier2_machine
        costs = _computed(laid, shape, near, far, machines)
        typer.echo("not measured: from the catalogue")
    count = requests or _enough(laid)
    slower = _parse_slow(slow or [], laid)
    with open_trace(trace, begun=0.0) as written:
        simulator = Simulator(laid, costs, laid.pages(shape), slow=slower, trace=written)
        _report(simulator.run(work.requests(count)), count)
    for note in dict.fromkeys(note for one in costs for note in getattr(one, "notes", ())):
        typer.echo(note)


def _enough(plan: Plan) -> int:
    return min(_MOST, _TURNOVERS * plan.batch_size * plan.batches_in_flight)


def _measured(
    plan: Plan, shape: ModelShape, profile: Profile, link: LinkCost
) -> Sequence[SliceCosts]:
    num_layers = len(shape.layers)
    if plan.worker_storage and profile.storage_bytes_per_s is None:
        raise UsageError(
            "the plan keeps KV on drives, of which the profile has none: measure it with "
            "`glinthawk profile --storage DIR`"
        )
    return [
        Measured(profile, part, num_layers, plan.kv_dtype, link) for part in shape.cut(plan.slices)
    ]


def _computed(
    plan: Plan,
    shape: ModelShape,
    tier1: str | None,
    tier2: str | None,
    machines: MachineOptions,
) -> Sequence[SliceCosts]:
    if tier1 is None or (tier2 is None and plan.workers_per_slice):
        raise UsageError(
            "the plan names no machines: give --tier1 and --tier2 of the catalogue, or --profile"
        )
    (near,) = machines.find([tier1])
    (far,) = machines.find([tier2]) if tier2 else (None,)
    if plan.worker_storage and (far is None or far.storage < plan.worker_storage):
        raise UsageError(
            f"the plan keeps {format_size(plan.worker_storage)} of KV on each worker's drives, "
            f"{tier2} has {format_size(far.storage if far else 0)}: give --tier2 a machine with "
            "more storage, or make the plan anew"
        )
    link = LinkCost(machines.latency_s, near.network)
    return roofline_slices(shape, plan.slices, near, far, link, plan.kv_dtype)


def _parse_slow(texts: Sequence[str], plan: Plan) -> dict[int, float]:
    slow = {}
    for text in texts:
        worker, _, factor = text.partition(":")
        try:
            slow[int(worker)] = float(factor)
        except ValueError:
            raise UsageError(f"--slow {text!r} is not like 2:1.5 (worker 2, 1.5 times)") from None
        if not 1 <= int(worker) <= plan.workers_per_slice or not float(factor) > 0:
            raise UsageError(
                f"--slow {text}: workers are 1 to {plan.workers_per_slice}, factors more than 0"
            )
    return slow


def _report(outcome: Outcome, count: int) -> None:
    is_long = count >= 2 * outcome.most_living
    typer.echo(
        f"{count} requests, {outcome.prompt_tokens} prompt tokens, {outcome.tokens} generated in "
        f"{outcome.seconds:,.1f} s: {outcome.tokens_per_s:,.1f} tokens/s"
        + (f", {outcome.steady_tokens_per_s:,.1f} in the long run" if is_long else "")
    )
    typer.echo(
        f"{outcome.most_living} sequences at once at most, {outcome.num_preemptions} pre-emptions"
    )
    for name, shares in (
        ("tier 1", outcome.tier1_busy),
        ("tier 2", outcome.tier2_busy),
        ("drives", outcome.drives_busy),
        ("links", outcome.link_busy),
    ):
        if any(shares):
            mean = sum(shares) / len(shares)
            typer.echo(f"{name}: busy {mean:.0%} on average, the busiest {max(shares):.0%}")
