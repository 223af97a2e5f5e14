"""Closed forms."""

import doctest

from glinthawk.planner import formulas


def test_worked_examples() -> None:
    assert doctest.testmod(formulas, raise_on_error=True).attempted > 1
