"""What people are told of a setting, beside its name, type and default."""

import inspect
import math
import textwrap
from dataclasses import MISSING, dataclass, fields
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from glinthawk.core.errors import UsageError
from glinthawk.core.units import Size, parse_size

__all__ = ["NamedSetting", "Setting", "check_setting", "describe_settings", "list_settings"]


@dataclass(frozen=True, slots=True)
class Setting:
    """Stands in the annotation of a dataclass's field, for the command line and for Python.

    ``help`` names other settings in backticks. On the command line, ``short`` is a letter of its
    own (``-m``), and ``metavar`` stands for the value where its type does not say enough. Numbers
    are from ``least`` to ``most``, both included.
    """

    help: str
    short: str | None = None
    metavar: str | None = None
    least: float = -math.inf
    most: float = math.inf


@dataclass(frozen=True, slots=True)
class NamedSetting:
    """A field, without its ``Setting`` in ``kind``. ``default`` is MISSING where there is none."""

    name: str
    kind: Any
    default: Any
    setting: Setting

    @property
    def types(self) -> tuple[Any, ...]:
        """Of values: of a union all, in order."""
        is_union = get_origin(self.kind) in (Union, UnionType)
        return get_args(self.kind) if is_union else (self.kind,)

    @property
    def choices(self) -> tuple[str, ...]:
        """Words that are taken; () where there are none, or any is."""
        return tuple(
            word for one in self.types if get_origin(one) is Literal for word in get_args(one)
        )

    @property
    def is_size(self) -> bool:
        """Whether bytes are meant."""
        return {*get_args(Size)} <= {*self.types}


@cache
def list_settings(owner: type) -> tuple[NamedSetting, ...]:
    """Fields of the dataclass ``owner``, in order, all of which must have a ``Setting``."""
    hints = get_type_hints(owner, include_extras=True)
    found = []
    for field in fields(owner):
        assert get_origin(hints[field.name]) is Annotated, f"say what {field.name} is"
        kind, setting = get_args(hints[field.name])
        found.append(NamedSetting(field.name, kind, field.default, setting))
    return tuple(found)


def describe_settings(owner: type) -> str:
    """All of ``owner``'s for a docstring, a paragraph each."""
    return "\n".join(map(_describe, list_settings(owner)))


def _describe(one: NamedSetting) -> str:
    kind = (
        " | ".join(map(inspect.formatannotation, one.types))
        .replace("typing.", "")
        .replace("NoneType", "None")
    )
    default = "" if one.default is MISSING else f" = {one.default!r}"
    text = textwrap.fill(one.setting.help, 96, initial_indent="    ", subsequent_indent="    ")
    return f"{one.name}: {kind}{default}\n{text}"


def check_setting(one: NamedSetting, value: Any) -> None:
    """By type and range alone. Raises UsageError that names the setting and what it takes."""
    if value in one.choices or (value is None and NoneType in one.types):
        return
    if one.is_size:
        _check_size(one.name, value)
    elif one.types[0] in (int, float):
        _check_number(one, value)
    elif one.choices:
        raise UsageError(f"{one.name} must be one of {', '.join(one.choices)}, not {value!r}")


def _check_size(name: str, value: Size) -> None:
    try:
        num_bytes = parse_size(value)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error
    if num_bytes < 0:
        raise UsageError(f"{name} must be 0 or more bytes, not {value}")


def _check_number(one: NamedSetting, value: Any) -> None:
    least, most = one.setting.least, one.setting.most
    is_number = isinstance(value, int | float if one.types[0] is float else int)
    if not (is_number and least <= value <= most):
        taken = f"from {least} to {most}" if most < math.inf else f"at least {least}"
        choices = "".join(f"{choice} or " for choice in one.choices)
        raise UsageError(f"{one.name} must be {choices}{taken}, not {value!r}")
