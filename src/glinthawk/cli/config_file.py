"""Options of a command from a TOML file. What the command line says goes before it."""

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from glinthawk.core.errors import UsageError
from glinthawk.core.nearest import advise_name

__all__ = ["ConfigFlag"]

#: What help calls the values of options that take names with commas between, or an object.
_NAMES, _JSON = "NAMES", "JSON"


def _read(context: typer.Context, parameter: typer.CallbackParam, path: Path | None) -> Path | None:
    """Called before other options are looked at, whose defaults become what the file says."""
    if path is not None and not context.resilient_parsing:
        options = {one.name: one for one in context.command.params}
        del options[parameter.name]
        said = {str(key).replace("-", "_"): value for key, value in _load(path).items()}
        for name, value in said.items():
            if name not in options:
                advice = advise_name(
                    name, options, f"see `{context.command_path} --help` for what there is"
                )
                raise UsageError(f"{path} has no option {name!r} to set; {advice}")
            said[name] = _fitting(options[name], value, f"{path}: {name}")
        context.default_map = said
    return path


def _load(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"--config: cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML ({error}); write it like batch_size = 64") from error


def _fitting(option: Any, value: Any, what: str) -> Any:
    """``value`` as the command line would give it."""
    if option.is_flag:
        if not isinstance(value, bool):
            raise UsageError(f"{what} must be true or false, not {value!r}")
        return value
    if option.multiple:
        many = value if isinstance(value, list) else [value]
        if all(isinstance(one, str) for one in many):
            return many
        raise UsageError(f"{what} must be text in quotes, or a list of that, not {value!r}")
    if option.metavar == _NAMES and isinstance(value, list):
        return ",".join(map(str, value))
    if option.metavar == _JSON and isinstance(value, dict):
        return json.dumps(value, default=str)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(f"{what} must be text in quotes or a number, not {value!r}")
    return str(value)


ConfigFlag = Annotated[
    Path | None,
    typer.Option(
        help="TOML file of options, like batch_size = 64; the command line goes before it.",
        callback=_read,
        is_eager=True,
    ),
]
