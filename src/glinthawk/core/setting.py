"""What people are told of a setting, and the values that it takes, beside its type and default."""

import inspect
import operator
import re
import textwrap
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from functools import cache, cached_property
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from glinthawk.core.errors import UsageError
from glinthawk.core.units import Size, is_text_or_bytes, parse_size

__all__ = ["NamedSetting", "Setting", "check_settings", "describe_settings", "list_settings"]

_BOUNDS = {
    "least": (operator.ge, "at least"),
    "above": (operator.gt, "more than"),
    "most": (operator.le, "at most"),
    "below": (operator.lt, "less than"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Stands in the annotation of a dataclass's field, for the command line and for Python.

    ``help`` names other settings in backticks. On the command line, ``short`` is a letter of its
    own (``-m``), ``also`` another name that people know it by, and ``metavar`` stands for the value
    where its type does not say enough. Numbers are at least ``least``, more than ``above``, at most
    ``most`` and less than ``below``.
    """

    help: str = field(kw_only=False)
    short: str | None = None
    also: str | None = None
    metavar: str | None = None
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None


@dataclass(frozen=True)
class NamedSetting:
    """A field, without its ``Setting`` in ``kind``. ``default`` is MISSING where there is none."""

    name: str
    kind: Any
    default: Any
    setting: Setting

    @cached_property
    def types(self) -> tuple[Any, ...]:
        """Of values: of a union all, in order."""
        is_union = get_origin(self.kind) in (Union, UnionType)
        return get_args(self.kind) if is_union else (self.kind,)

    @cached_property
    def choices(self) -> tuple[str, ...]:
        """Words that are taken; () where there are none, or any is."""
        literals = [one for one in self.types if get_origin(one) is Literal]
        return tuple(word for one in literals for word in get_args(one))

    @cached_property
    def is_size(self) -> bool:
        """Whether bytes are meant."""
        return {*get_args(Size)} <= {*self.types}

    @cached_property
    def bounds(self) -> tuple[tuple[Callable[[Any, Any], bool], float, str], ...]:
        """Of numbers: how each is compared, with what, and that in words."""
        given = ((getattr(self.setting, name), *how) for name, how in _BOUNDS.items())
        return tuple((holds, n, f"{words} {n}") for n, holds, words in given if n is not None)

    def find_problem(self, value: Any) -> str | None:
        """What is wrong with ``value``, by type and range alone, and what is taken: to be read
        after the name."""
        if value in self.choices or (value is None and NoneType in self.types):
            return None
        if self.is_size:
            return self._size_problem(value)
        if self.types[0] in (int, float):
            return self._number_problem(value)
        if self.choices:
            return f" must be one of {', '.join(self.choices)}, not {value!r}"
        return None

    def _size_problem(self, value: Any) -> str | None:
        if not is_text_or_bytes(value):
            return f" must be bytes, or a size like '4GiB', not {value!r}"
        try:
            negative = parse_size(value) < 0
        except UsageError as error:
            return f": {error}"
        return f" must be 0 or more bytes, not {value}" if negative else None

    def _number_problem(self, value: Any) -> str | None:
        numbers = (int, float) if self.types[0] is float else int
        is_number = isinstance(value, numbers) and not isinstance(value, bool)
        if is_number and all(holds(value, bound) for holds, bound, _ in self.bounds):
            return None
        kind = "a number" if self.types[0] is float else "a whole number"
        limits = " and ".join(text for *_, text in self.bounds)
        taken = " or ".join((*self.choices, f"{kind} of {limits}" if limits else kind))
        return f" must be {taken}, not {value!r}"


@cache
def list_settings(owner: type) -> tuple[NamedSetting, ...]:
    """Fields of the dataclass ``owner``, in order, all of which must have a ``Setting``."""
    hints = get_type_hints(owner, include_extras=True)
    found = []
    for one in fields(owner):
        assert get_origin(hints[one.name]) is Annotated, f"say what {one.name} is"
        kind, setting = get_args(hints[one.name])
        default = one.default if one.default_factory is MISSING else one.default_factory()
        found.append(NamedSetting(one.name, kind, default, setting))
    return tuple(found)


def describe_settings(owner: type) -> str:
    """All of ``owner``'s for a docstring, a paragraph each."""
    return "\n".join(map(_describe, list_settings(owner)))


def _describe(one: NamedSetting) -> str:
    kind = " | ".join(map(inspect.formatannotation, one.types)).replace("NoneType", "None")
    kind = re.sub(r"typing\.|collections\.abc\.", "", kind)
    default = "" if one.default is MISSING else f" = {one.default!r}"
    text = textwrap.fill(one.setting.help, 96, initial_indent="    ", subsequent_indent="    ")
    return f"{one.name}: {kind}{default}\n{text}"


def check_settings(holder: Any, error: type[Exception], quote: str = "") -> None:
    """By type and range alone. Raises ``error``, which names the setting, in ``quote``s, and what
    it takes."""
    owner: type = type(holder)
    for one in list_settings(owner):
        value = getattr(holder, one.name)
        # Most are as they are by default, and lines of a job are many.
        if value is not one.default and (problem := one.find_problem(value)):
            raise error(f"{quote}{one.name}{quote}{problem}")
