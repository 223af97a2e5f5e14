"""The catalogue of machines, and a user's own over it."""

from pathlib import Path

import pytest

from glinthawk.core.errors import UsageError
from glinthawk.planner.catalogue import load_catalogue

OWN = """
[machines.mine]
kind = "cpu"
memory = "64GiB"
bandwidth = 100e9
flops = 2e12
network = 1.25e9
source = "measured here"
date = "2026-11-21"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "own.toml"
    path.write_text(text)
    return path


def test_every_machine_says_where_its_numbers_are_from() -> None:
    catalogue = load_catalogue()
    assert len(catalogue.machines) >= 18
    assert all(one.source and one.date for one in catalogue.machines.values())
    assert catalogue.machine("t4").reached_bandwidth == pytest.approx(225e9, rel=0.01)
    assert catalogue.machine("rome-16").reached_bandwidth == pytest.approx(31e9, rel=0.01)


def test_prices_of_a_set_are_of_known_machines() -> None:
    catalogue = load_catalogue()
    for name, prices in catalogue.prices.items():
        for machine, price in prices.of.items():
            assert catalogue.priced(machine, name).dollars_per_hour == price


def test_own_machines_join(tmp_path: Path) -> None:
    catalogue = load_catalogue(write(tmp_path, OWN))
    assert catalogue.machine("mine").memory == 64 << 30
    assert catalogue.machine("H100").memory == 77 << 30


def test_fields_of_a_known_machine_can_be_changed(tmp_path: Path) -> None:
    own = write(tmp_path, "[machines.H100]\ndollars_per_hour = 2.5\n")
    machine = load_catalogue(own).machine("H100")
    assert machine.dollars_per_hour == 2.5
    assert machine.flops == 989e12


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (OWN.replace("flops", "flop"), "machine mine: no field 'flop'"),
        (OWN.replace('"64GiB"', '"64 lots"'), "machine mine: '64 lots' is not a size"),
        (OWN.replace('"64GiB"', "1.5"), "machine mine"),
        (OWN.replace('"cpu"', '"abacus"'), r"machine mine: .*\$.kind"),
        (OWN.replace("100e9", '"fast"'), r"machine mine: .*\$.bandwidth"),
        (OWN.replace("100e9", "0"), "bandwidth of machine mine must be more than 0"),
        (OWN + "flops_share = 2\n", "flops_share of machine mine must be at most 1"),
        (OWN.replace('source = "measured here"', ""), "machine mine: .*source"),
        ("[machines]\nmine = 3\n", r"must be a table \[machines.mine\]"),
        ("[machine.mine]\n", "'machine' is no part"),
        ("[prices.mine]\nof = {}\n", "prices mine: "),
        ("machines", "is not TOML"),
    ],
)
def test_errors_name_the_entry_and_the_field(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load_catalogue(write(tmp_path, text))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    catalogue = load_catalogue()
    with pytest.raises(UsageError, match="no machine 'B300'; it has T4"):
        catalogue.machine("B300")
    with pytest.raises(UsageError, match="no price of L4"):
        catalogue.priced("L4", "lamina")
    with pytest.raises(UsageError, match="no price set"):
        catalogue.priced("L4", "nobody")
    with pytest.raises(UsageError, match="cannot read the catalogue"):
        load_catalogue(tmp_path / "none.toml")
