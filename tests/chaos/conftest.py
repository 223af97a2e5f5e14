"""How often the chaos test is run, and with which seeds."""

import pytest

from layouts import LAYOUTS


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rounds", type=int, default=len(LAYOUTS), help="jobs to disturb")
    parser.addoption("--first-seed", type=int, default=0, help="that of the first job")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        first, rounds = (metafunc.config.getoption(name) for name in ("first_seed", "rounds"))
        seeds = range(first, first + rounds)
        names = [f"{seed}: {LAYOUTS[seed % len(LAYOUTS)].name}" for seed in seeds]
        metafunc.parametrize("seed", seeds, ids=names)
