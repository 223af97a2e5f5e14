"""Help at the width of a terminal: options in panels, nothing cut."""

import inspect
import re
import textwrap
from collections.abc import Mapping
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from glinthawk.cli.bare_options import fill_bare
from glinthawk.cli.panels import COMMON, TITLES, panel_of

__all__ = ["HelpfulCommand", "HelpfulGroup", "write_help"]

#: Columns before names, and of names at most; a longer one has a line of its own.
_INDENT, _NAMES = 2, 26


class HelpfulCommand(TyperCommand):
    """Typer's tables have a column for everything, and little is left for words."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Called with what stands behind the command."""
        return super().parse_args(ctx, fill_bare(args))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Called by ``--help``."""
        write_help(self, ctx, formatter)


class HelpfulGroup(TyperGroup):
    """The same of commands that are at hand."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Called by ``--help``."""
        summaries = {name: each.help or "" for name, each in self.commands.items()}
        write_help(self, ctx, formatter, summaries)


def write_help(
    command: Any, context: Any, formatter: Any, summaries: Mapping[str, str] | None = None
) -> None:
    """All that ``command`` takes; of a group, a line for each of its commands."""
    width = formatter.width
    formatter.write(f"\nUsage: {' '.join([context.command_path, *_usage(command, context)])}\n")
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        formatter.write(f"\n{_fill(paragraph, width)}\n")
    if summaries:
        formatter.write(_panel("Commands", [*summaries.items()], width))
    panels = {name: [*map(_entry, each)] for name, each in _panels(command, context).items()}
    longest = max(len(name) for entries in panels.values() for name, _ in entries)
    for title, entries in panels.items():
        formatter.write(_panel(title, entries, width, longest))


def _usage(command: Any, context: Any) -> list[str]:
    """Arguments in capitals, as in their panel."""
    pieces = command.collect_usage_pieces(context)
    return [re.sub(r"\{(\w+)\}", lambda name: name[1].upper(), piece) for piece in pieces]


def _panels(command: Any, context: Any) -> dict[str, list[Any]]:
    """Only ``run`` has so many options that they need more than one."""
    panels: dict[str, list[Any]] = {name: [] for name in ("Arguments", *TITLES)}
    for option in command.get_params(context):
        if option.param_type_name == "argument":
            panels["Arguments"].append(option)
        elif not option.hidden:
            panels[panel_of(option.name) if command.name == "run" else COMMON].append(option)
    return {name: members for name, members in panels.items() if members}


def _panel(title: str, entries: list[tuple[str, str]], width: int, longest: int = 0) -> str:
    names = min(_NAMES, 2 + max(longest, *(len(name) for name, _ in entries)))
    lines = [_aligned(name, text, width, names) for name, text in entries]
    return "\n".join(["", typer.style(title, bold=True), *lines, ""])


def _aligned(name: str, text: str, width: int, names: int) -> str:
    indent = " " * (_INDENT + names)
    head = f"{' ' * _INDENT}{name}"
    if len(head) + 2 > len(indent):
        return f"{head}\n{_fill(text, width, indent)}"
    return head.ljust(len(indent)) + _fill(text, width, indent)[len(indent) :]


def _entry(option: Any) -> tuple[str, str]:
    if option.param_type_name == "argument":
        return option.metavar or option.name.upper(), _explain(option)
    # A letter first, as people look for it there.
    names = ", ".join(sorted((*option.opts, *option.secondary_opts), key=len))
    takes = "" if option.is_flag else f" {option.metavar or 'VALUE'}"
    return f"{names}{takes}", _explain(option)


def _explain(option: Any) -> str:
    help_text = option.help or ""
    if option.required and option.param_type_name != "argument":
        return f"{help_text} Required."
    value = option.default
    if value in (None, "", ()) or isinstance(value, bool) or "Default:" in help_text:
        return help_text
    shown = f"{value:g}" if isinstance(value, float) else value
    return f"{help_text} Default: {shown}."


def _fill(text: str, width: int, indent: str = "") -> str:
    # Addresses and names stay whole, even where they stand out.
    return textwrap.fill(
        " ".join(text.split()),
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
