"""Flags that say on which machines something is planned or simulated."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, get_args

import typer

from glinthawk.core.config import KvDtype
from glinthawk.core.errors import UsageError
from glinthawk.planner.catalogue import Machine, load_catalogue
from glinthawk.planner.costs import LinkCost
from glinthawk.planner.profile import Profile

__all__ = [
    "BandwidthFlag",
    "CatalogueFlag",
    "LatencyFlag",
    "ProfileFlag",
    "WorkloadFlag",
    "check_kv_dtypes",
    "find_machines",
    "latency_seconds",
    "profile_link",
    "resolve_kv_dtypes",
]

WorkloadFlag = Annotated[
    str,
    typer.Option(
        help="512:256 (prompt and answer tokens), sharegpt, or a file of lines "
        '{"input": 512, "output": 256}.'
    ),
]
_LATENCY_MS = 0.1
LatencyFlag = Annotated[
    float | None,
    typer.Option(
        help="Milliseconds one way between machines. Default: "
        f"{_LATENCY_MS:g}, or as in the profile.",
        min=0,
    ),
]
BandwidthFlag = Annotated[
    float | None,
    typer.Option(help="GB/s of every machine's network. Default: the catalogue's or profile's."),
]
CatalogueFlag = Annotated[
    Path | None,
    typer.Option(help="TOML file of more machines, or of other prices and speeds of known ones."),
]
ProfileFlag = Annotated[
    Path | None,
    typer.Option(help="This machine as `glinthawk profile` measured it, in place of a catalogue."),
]


def find_machines(
    names: list[str], catalogue: Path | None, bandwidth: float | None
) -> tuple[Machine, ...]:
    """Of the catalogue, by name, each once. Raises UsageError for unknown ones."""
    known = load_catalogue(catalogue)
    machines = [known.machine(name) for name in dict.fromkeys(names)]
    if bandwidth is not None:
        if bandwidth <= 0:
            raise UsageError("--bandwidth must be more than 0 GB/s")
        machines = [replace(one, network=1e9 * bandwidth) for one in machines]
    return tuple(machines)


def latency_seconds(latency: float | None) -> float:
    """Of the flag."""
    return 1e-3 * (_LATENCY_MS if latency is None else latency)


def profile_link(profile: Profile, latency: float | None, bandwidth: float | None) -> LinkCost:
    """The measured link, or another one."""
    return LinkCost(
        profile.link_latency_s if latency is None else latency / 1e3,
        profile.link_bytes_per_s if bandwidth is None else 1e9 * bandwidth,
    )


def check_kv_dtypes(wanted: list[str]) -> list[str]:
    """Typer takes no choices in a list. Raises UsageError."""
    for one in wanted:
        if one not in get_args(KvDtype):
            choices = ", ".join(get_args(KvDtype))
            raise UsageError(f"--kv-dtype must be one of {choices}, not {one!r}")
    return wanted


def resolve_kv_dtypes(wanted: Iterable[str], own: str) -> list[str]:
    """``auto`` is the model's own; each once."""
    return list(dict.fromkeys(own if one == "auto" else one for one in wanted))
