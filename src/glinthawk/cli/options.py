"""Options of a command from dataclasses: one for every field, by its name, type and default."""

import inspect
import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import partial, wraps
from typing import Annotated, Any, get_type_hints

import msgspec
import typer

from glinthawk.core.setting import NamedSetting, list_settings

__all__ = ["SettingsOf", "spread"]


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
    options.sort(key=lambda option: option.default is not option.empty)
    called.__signature__ = signature.replace(parameters=options)  # type: ignore[attr-defined]
    return called


@dataclass(frozen=True, slots=True)
class SettingsOf:
    """Settings of the dataclass ``owner``, all or those of ``names``, as a dictionary.
    What goes together has not been checked yet.
    """

    owner: type
    names: tuple[str, ...] = ()

    def options(self) -> list[inspect.Parameter]:
        """In the owner's order."""
        flags = {one.name: _flag(one.name) for one in list_settings(self.owner)}
        return [_option(one, flags) for one in self._settings()]

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
        *filter(None, (one.setting.short, flags[one.name])),
        help=re.sub(r"`(\w+)`", lambda named: flags.get(named[1], named[0]), one.setting.help),
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
        return Any, f"<int|{'|'.join(one.choices)}>", partial(_parse_count, one)
    return (list[str] if isinstance(one.default, tuple) else one.kind), None, None


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


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
