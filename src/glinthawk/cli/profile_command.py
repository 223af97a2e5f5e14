"""``glinthawk profile``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glinthawk.cli.machines import check_kv_dtypes, resolve_kv_dtypes
from glinthawk.cli.options import SettingsOf, spread
from glinthawk.cli.outputs import check_output
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import UsageError

if TYPE_CHECKING:
    from glinthawk.bench.profiling import Bench

__all__ = ["profile"]

_SETTINGS = ("model", "dtype", "load_format", "trust_remote_code", "dense")


@spread
def profile(
    *,
    settings: Annotated[dict[str, Any], SettingsOf(EngineConfig, _SETTINGS)],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="The profile is written here.", callback=check_output),
    ],
    tier2: Annotated[
        str,
        typer.Option(
            help="local:1 shares the cores with a worker started here, as run does; an address is "
            "a worker elsewhere, as in run; none measures Tier 1 alone, on all cores."
        ),
    ] = "local:1",
    kv_dtype: Annotated[
        list[str] | None, typer.Option(help="Types of the KV cache (repeatable).")
    ] = None,
    storage: Annotated[
        Path | None,
        typer.Option(help="Measure reads of a drive too, with a scratch file of 1 GiB here."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A look: fewer and smaller sizes.")
    ] = False,
) -> None:
    """Measure a model on this machine, for `glinthawk plan --profile`. Takes some minutes, in
    which nothing else should run."""
    import msgspec

    from glinthawk.bench.drive import sequential_reads
    from glinthawk.bench.profiling import Sizes, measure_profile

    wanted = check_kv_dtypes(kv_dtype or ["auto"])
    reads = sequential_reads(storage) if storage else None
    config = EngineConfig(device="cpu", **settings)
    bench = _bench(config, tier2)
    own = bench.loaded.spec.dtype
    sizes = Sizes.quick() if quick else Sizes()
    measured = measure_profile(
        bench, resolve_kv_dtypes(wanted, own), lambda line: typer.echo(line, err=True), sizes
    )
    try:
        msgspec.structs.replace(measured, storage_bytes_per_s=reads).save(output)
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror}") from error
    typer.echo(
        f"{output}: plan with `glinthawk plan -m {config.model} --profile {output} --workload ...`"
    )


def _bench(config: EngineConfig, place: str) -> "Bench":
    """Cores are shared as a run shares them."""
    import os

    import torch

    from glinthawk.bench.layouts import worker_at, worker_on
    from glinthawk.bench.profiling import Bench
    from glinthawk.launch.local_machine import share_threads
    from glinthawk.launch.local_processes import parse_tier2
    from glinthawk.tier1.model.loader import load_model

    num_local, addresses = parse_tier2(() if place == "none" else (place,))
    if num_local > 1:
        raise UsageError("a profile is of one worker: --tier2 local:1, or its address, or none")
    tier1_threads, worker_threads = share_threads(num_local)
    torch.set_num_threads(tier1_threads)
    loaded, cores = load_model(config), sorted(os.sched_getaffinity(0))
    near, far = cores[:tier1_threads], cores[tier1_threads:] or cores
    if addresses:
        return Bench(loaded, near, 0, lambda _: worker_at(addresses[0]))
    if not num_local:
        return Bench(loaded, near, 0, None)
    open_worker = lambda num_bytes: worker_on(far, num_bytes, worker_threads)  # noqa: E731
    return Bench(loaded, near, worker_threads, open_worker)
