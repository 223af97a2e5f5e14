"""Flags that say on which machines something is planned or simulated."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, get_args

import typer

from glinthawk.core.config import KvDtype
from glinthawk.core.errors import UsageError
from glinthawk.planner.catalogue import Machine, load_catalogue
from glinthawk.planner.costs import LinkCost
from glinthawk.planner.profile import Profile

__all__ = ["MachineOptions", "WorkloadFlag", "check_kv_dtypes", "resolve_kv_dtypes"]

WorkloadFlag = Annotated[
    str,
    typer.Option(
        help="512:256 (prompt and answer tokens), sharegpt, or a file of lines "
        '{"input": 512, "output": 256}.'
    ),
]
_LATENCY_MS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineOptions:
    """Of every command that computes what a job takes on machines, or on this one as measured."""

    latency: Annotated[
        float | None,
        typer.Option(
            help="Milliseconds one way between machines. Default: "
            f"{_LATENCY_MS:g}, or as in the profile.",
            min=0,
        ),
    ] = None
    bandwidth: Annotated[
        float | None,
        typer.Option(
            help="GB/s of every machine's network. Default: the catalogue's or profile's."
        ),
    ] = None
    catalogue: Annotated[
        Path | None,
        typer.Option(
            help="TOML file of more machines, or of other prices and speeds of known ones."
        ),
    ] = None
    profile: Annotated[
        Path | None,
        typer.Option(
            help="This machine as `glinthawk profile` measured it, in place of a catalogue."
        ),
    ] = None

    def find(self, names: list[str]) -> tuple[Machine, ...]:
        """Of the catalogue, by name, each once. Raises UsageError for unknown ones."""
        known = load_catalogue(self.catalogue)
        machines = [known.machine(name) for name in dict.fromkeys(names)]
        if self.bandwidth is not None:
            if self.bandwidth <= 0:
                raise UsageError("--bandwidth must be more than 0 GB/s")
            machines = [replace(one, network=1e9 * self.bandwidth) for one in machines]
        return tuple(machines)

    @property
    def latency_s(self) -> float:
        """Between machines of the catalogue, one way."""
        return 1e-3 * (_LATENCY_MS if self.latency is None else self.latency)

    def link(self, profile: Profile) -> LinkCost:
        """The measured one, or another that is asked for."""
        return LinkCost(
            profile.link_latency_s if self.latency is None else self.latency / 1e3,
            profile.link_bytes_per_s if self.bandwidth is None else 1e9 * self.bandwidth,
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
