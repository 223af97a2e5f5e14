"""What machines can do and what they cost, with where each number is from."""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import msgspec

from glinthawk.core.errors import UsageError
from glinthawk.core.units import parse_size

__all__ = ["Catalogue", "Machine", "PriceSet", "load_catalogue"]

_SIZES = ("memory", "storage", "host_memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One accelerator with its share of a host, one CPU machine, or one drive."""

    name: str
    kind: Literal["accelerator", "cpu", "drive"]
    #: Bytes that weights and KV may take.
    memory: int
    #: Bytes a second read from its memory, at most; and the share that is reached.
    bandwidth: float
    bandwidth_share: float = 0.75
    #: 16-bit FLOP a second, at most; and the share that is reached. 0 on drives.
    flops: float = 0.0
    flops_share: float = 0.5
    #: Bytes a second to other machines, each way; of a drive, to its host.
    network: float
    cores: int = 0
    #: Bytes a second written; None is as fast as reading.
    write_bandwidth: float | None = None
    #: Bytes of drives in it for KV; bytes a second that are read from all of them and written to
    #: them (None is as fast as reading), at most; and the share that is reached.
    storage: int = 0
    storage_reads: float = 0.0
    storage_writes: float | None = None
    storage_share: float = 0.9
    #: Of an accelerator: bytes a second from its host's memory, and bytes of that; 0 is not known.
    host_bandwidth: float = 0.0
    host_memory: int = 0
    #: None where nobody lets it.
    dollars_per_hour: float | None = None
    source: str
    #: On which the source was looked up, year-month-day.
    date: str

    def __post_init__(self) -> None:
        for name in ("memory", "bandwidth", "network", "bandwidth_share", "flops_share"):
            _check(self, name, getattr(self, name) > 0, "more than 0")
        for name in ("bandwidth_share", "flops_share", "storage_share"):
            _check(self, name, getattr(self, name) <= 1, "at most 1")
        _check(self, "flops", self.flops > 0 or self.kind == "drive", "more than 0")
        _check(self, "dollars_per_hour", (self.dollars_per_hour or 0) >= 0, "0 or more")
        _check(self, "write_bandwidth", (self.write_bandwidth or 1) > 0, "more than 0")
        reads, writes = self.storage_reads, self.storage_writes
        _check(self, "storage_reads", reads > 0 or not self.storage, "more than 0 beside storage")
        _check(self, "storage_writes", writes is None or writes > 0, "more than 0")
        _check(self, "source", bool(self.source), "said")

    @property
    def reached_bandwidth(self) -> float:
        """Bytes a second read in a whole step."""
        return self.bandwidth * self.bandwidth_share

    @property
    def reached_flops(self) -> float:
        """FLOP a second in a whole step."""
        return self.flops * self.flops_share

    @property
    def reached_writes(self) -> float:
        """Bytes a second written."""
        return (self.write_bandwidth or self.bandwidth) * self.bandwidth_share

    @property
    def reached_storage_reads(self) -> float:
        """Bytes a second read from all drives in it."""
        return self.storage_reads * self.storage_share

    @property
    def reached_storage_writes(self) -> float:
        """Bytes a second written to all drives in it."""
        return (self.storage_writes or self.storage_reads) * self.storage_share


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceSet:
    """Prices of one source, by machine; of the same unit, whichever it is."""

    unit: str
    source: str
    date: str
    of: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Catalogue:
    machines: Mapping[str, Machine]
    prices: Mapping[str, PriceSet]

    def machine(self, name: str) -> Machine:
        """By name, in any case. Raises UsageError."""
        found = {one.lower(): machine for one, machine in self.machines.items()}.get(name.lower())
        if found is None:
            raise UsageError(
                f"the catalogue has no machine {name!r}; it has {', '.join(self.machines)}. "
                "Describe others in a file of your own"
            )
        return found

    def priced(self, name: str, prices: str) -> Machine:
        """A machine at the price of a price set. Raises UsageError where there is none."""
        machine = self.machine(name)
        if prices not in self.prices:
            raise UsageError(f"no price set {prices!r}; there are {', '.join(self.prices)}")
        price = self.prices[prices].of.get(machine.name)
        if price is None:
            raise UsageError(f"the price set {prices!r} has no price of {machine.name}")
        return replace(machine, dollars_per_hour=price)


def load_catalogue(extra: Path | None = None) -> Catalogue:
    """The machines that come with glinthawk and, over them, those of the file ``extra``: entries
    there add machines or change fields of known ones. Raises UsageError naming entry and field."""
    own = tomllib.loads((files("glinthawk.planner") / "catalogue.toml").read_text())
    machines = _machines(own.get("machines", {}), {}, "catalogue.toml")
    prices = _prices(own.get("prices", {}), "catalogue.toml")
    if extra is not None:
        more = _read(extra)
        if unknown := more.keys() - {"machines", "prices"}:
            raise UsageError(
                f"{extra}: {sorted(unknown)[0]!r} is no part of a catalogue; it has tables "
                "[machines.NAME] and [prices.NAME]"
            )
        machines |= _machines(more.get("machines", {}), machines, str(extra))
        prices |= _prices(more.get("prices", {}), str(extra))
    return Catalogue(machines, prices)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"cannot read the catalogue {path}: {error.strerror}") from error
    except ValueError as error:  # of TOML or of the encoding
        raise UsageError(f"{path} is not TOML: {error}") from error


def _machines(
    tables: dict[str, Any], known: Mapping[str, Machine], origin: str
) -> dict[str, Machine]:
    return {name: _machine(name, table, known.get(name), origin) for name, table in tables.items()}


def _machine(name: str, table: Any, known: Machine | None, origin: str) -> Machine:
    where = f"{origin}: machine {name}"
    allowed = {field.name for field in fields(Machine)} - {"name"}
    if not isinstance(table, dict):
        raise UsageError(f"{where} must be a table [machines.{name}]")
    if unknown := table.keys() - allowed:
        raise UsageError(
            f"{where}: no field {sorted(unknown)[0]!r}; fields are {', '.join(sorted(allowed))}"
        )
    values = {**(asdict(known) if known else {}), **table, "name": name}
    try:
        sizes = {size: parse_size(values[size]) for size in _SIZES if size in values}
        return msgspec.convert({**values, **sizes}, Machine)
    except (UsageError, msgspec.ValidationError, AttributeError, TypeError) as error:
        raise UsageError(f"{where}: {error}") from error


def _prices(tables: dict[str, Any], origin: str) -> dict[str, PriceSet]:
    found = {}
    for name, table in tables.items():
        try:
            found[name] = msgspec.convert(table, PriceSet)
        except msgspec.ValidationError as error:
            raise UsageError(f"{origin}: prices {name}: {error}") from error
    return found


def _check(machine: Machine, field: str, holds: bool, rule: str) -> None:
    if not holds:
        raise UsageError(f"{field} of machine {machine.name} must be {rule}")
