"""The commands by name. Each is imported when it is asked for: what it needs may take seconds."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from glinthawk.cli.help_text import HelpfulCommand, write_help

__all__ = ["Commands"]

#: Where each is, a function or an app of its own, and what the list of commands says of it.
_COMMANDS = {
    "run": ("run_command", "Answer every line of a batch file, or resume that."),
    "serve": ("serve_command", "Answer batches and requests of OpenAI's clients, by HTTP."),
    "merge": ("merge_command", "Join the outputs of a divided job, and say what is missing."),
    "quantize": ("quantize_command", "Make a model with 4- or 8-bit weights of one without."),
    "worker": ("worker_command", "Serve as a Tier-2 worker: KV cache, and attention over it."),
    "node": ("node_command", "Serve as a Tier-1 node: a slice of a model's layers."),
    "keygen": ("keygen_command", "Print this user's public key, made if there is none."),
    "plan": ("plan_command", "Find the cheapest or fastest layout of a model for a job."),
    "simulate": ("simulate_command", "Run a job by a plan on a virtual clock."),
    "profile": ("profile_command", "Measure a model on this machine, to plan with that."),
    "replay": ("replay_command", "Run the scheduler's events of a run again, and compare."),
    "bench": ("bench_command", "Measure this machine: the ceiling, then what is reached."),
}


class _Loaded(Mapping[str, Any]):
    """As click wants them; a value is made by the first look at it."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            module, _ = _COMMANDS[name]
            found = getattr(import_module(f"glinthawk.cli.{module}"), name)
            self._made[name] = _command(name, found)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_COMMANDS)

    def __len__(self) -> int:
        return len(_COMMANDS)


class Commands(TyperGroup):
    """All of ``glinthawk``."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = _Loaded()  # type: ignore[assignment]  # nobody adds to it

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """See HelpfulCommand. Nothing is imported for it."""
        write_help(self, ctx, formatter, {name: said for name, (_, said) in _COMMANDS.items()})


def _command(name: str, found: Any) -> Any:
    if isinstance(found, typer.Typer):
        made = typer.main.get_command(found)
    else:
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        alone.command(name, cls=HelpfulCommand)(found)
        made = typer.main.get_command(alone)
    made.name = name
    return made
