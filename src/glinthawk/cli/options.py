"""Options of a command from dataclasses: one for every field, by its name, type and default."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from functools import partial, wraps
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import typer
from typer.models import ArgumentInfo, OptionInfo

from glinthawk.core.config import EngineConfig
from glinthawk.core.setting import NamedSetting, list_settings

__all__ = ["SettingsOf", "name_options", "spread"]

#: What stands for a value in help, where nothing more is said of it.
_METAVARS = {int: "N", float: "NUMBER", str: "TEXT", Path: "FILE"}


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` as typer takes it.

    A parameter that is a dataclass, whose fields are annotated as typer wants them, gives way to
    them, and is made of what they are given. So does a dictionary with ``SettingsOf`` in its
    annotation. Required options come first.
    """
    signature = inspect.signature(command)
    groups = {name: _find_group(each.annotation) for name, each in signature.parameters.items()}

    @wraps(command)
    def called(**given: Any) -> None:
        for name, group in groups.items():
            if group is not None:
                given[name] = group.take(given)
        command(**given)

    options: list[inspect.Parameter] = []
    for name, each in signature.parameters.items():
        group = groups[name]
        options += group.options() if group else [each.replace(kind=each.KEYWORD_ONLY)]
    for option in options:
        _name_value(option.annotation)
    options.sort(key=lambda option: option.default is not option.empty)
    called.__signature__ = signature.replace(parameters=options)  # type: ignore[attr-defined]
    return called


@dataclass(frozen=True, slots=True)
class SettingsOf:
    """Settings of the dataclass ``owner``, all or those of ``names``, as a dictionary. Of those
    that are ``optional`` here, for the reason that help then gives, None says that none was given.
    What goes together has not been checked yet.
    """

    owner: type
    names: tuple[str, ...] = ()
    optional: Mapping[str, str] = field(default_factory=dict)

    def options(self) -> list[inspect.Parameter]:
        """In the owner's order."""
        flags = _flags(self.owner)
        return [_option(self._loosened(one), flags) for one in self._settings()]

    def _loosened(self, one: NamedSetting) -> NamedSetting:
        if one.name not in self.optional:
            return one
        told = replace(one.setting, help=f"{one.setting.help} {self.optional[one.name]}")
        return replace(one, kind=one.kind | None, default=None, setting=told)

    def take(self, given: dict[str, Any]) -> dict[str, Any]:
        """Move the settings out of what typer has ``given``."""
        taken = {one.name: given.pop(one.name) for one in self._settings()}
        return {name: tuple(v) if isinstance(v, list) else v for name, v in taken.items()}

    def _settings(self) -> list[NamedSetting]:
        every = list_settings(self.owner)
        return [one for one in every if not self.names or one.name in self.names]


@dataclass(frozen=True, slots=True)
class _Fields:
    """All of the dataclass ``owner``, annotated for typer already."""

    owner: type

    def options(self) -> list[inspect.Parameter]:
        hints = get_type_hints(self.owner, include_extras=True)
        return [_parameter(one.name, hints[one.name], one.default) for one in fields(self.owner)]

    def take(self, given: dict[str, Any]) -> Any:
        return self.owner(**{one.name: given.pop(one.name) for one in fields(self.owner)})


def _find_group(annotation: Any) -> SettingsOf | _Fields | None:
    if isinstance(annotation, type) and is_dataclass(annotation):
        return _Fields(annotation)
    metadata = getattr(annotation, "__metadata__", ())
    return next((one for one in metadata if isinstance(one, SettingsOf)), None)


def _option(one: NamedSetting, flags: dict[str, str]) -> inspect.Parameter:
    kind, metavar, parser = _presented(one)
    option = typer.Option(
        *filter(None, (one.setting.short, flags[one.name], one.setting.also)),
        help=name_options(one.setting.help, flags),
        metavar=one.setting.metavar or metavar,
        parser=parser,
    )
    return _parameter(one.name, Annotated[kind, option], one.default)


def _presented(one: NamedSetting) -> tuple[Any, str | None, Callable[[str], Any] | None]:
    """Type, metavar and parser by which typer asks for a value: it takes no tuples, and no unions
    but those with None."""
    if one.is_size:
        return (str | None if one.default is None else str), "SIZE", None
    if one.choices and int in one.types:
        return Any, f"N|{'|'.join(one.choices)}", partial(_parse_count, one)
    return (list[str] if isinstance(one.default, tuple) else one.kind), None, None


def name_options(text: str, flags: Mapping[str, str] | None = None) -> str:
    """``text`` with options where it names settings in backticks, as help and errors do."""
    known = _flags(EngineConfig) if flags is None else flags
    return re.sub(r"`(\w+)`", lambda named: known.get(named[1], named[0]), text)


def _name_value(annotation: Any) -> None:
    """Give an option that says nothing of its value a word for it."""
    kind, *notes = (getattr(annotation, "__metadata__", ()) and get_args(annotation)) or (None,)
    for note in notes:
        if isinstance(note, OptionInfo | ArgumentInfo) and note.metavar is None:
            note.metavar = _metavar(kind)


def _metavar(kind: Any) -> str | None:
    parts = [one for one in get_args(kind) if one is not NoneType] or [kind]
    if get_origin(kind) is Literal or get_origin(parts[0]) is Literal:
        return "|".join(get_args(kind if get_origin(kind) is Literal else parts[0]))
    return _METAVARS.get(parts[0] if get_origin(parts[0]) is None else get_args(parts[0])[0])


def _parse_count(one: NamedSetting, text: str) -> int | str:
    try:
        return msgspec.convert(text, one.kind, strict=False)  # type: ignore[no-any-return]
    except msgspec.ValidationError:
        choices = " nor ".join(one.choices)
        raise typer.BadParameter(f"{text!r} is neither {choices} nor a number") from None


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    missing = inspect.Parameter.empty if default is MISSING else default
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=missing, annotation=annotation
    )


def _flags(owner: type) -> dict[str, str]:
    """Options by the names of settings."""
    return {one.name: f"--{one.name.replace('_', '-')}" for one in list_settings(owner)}
