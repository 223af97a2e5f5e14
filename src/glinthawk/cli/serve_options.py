"""Where ``glinthawk serve`` listens, to whom, and what it keeps."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from glinthawk.cli.config_file import ConfigFlag
from glinthawk.cli.log_options import LogJsonFlag
from glinthawk.core.errors import UsageError

__all__ = ["API_KEY_VARIABLE", "ServeOptions"]

#: Of the environment: keys for who does not want them among the arguments.
API_KEY_VARIABLE = "GLINTHAWK_API_KEY"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """Beside the engine's settings. Raises UsageError if they do not go together."""

    data: Annotated[
        Path,
        typer.Option(help="Folder for files, batches and results; made if there is none."),
    ]
    config: ConfigFlag = None
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1"
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0: any free one.", min=0, max=65_535)
    ] = 8000
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            help="Key that clients have to give, KEY or NAME=KEY (repeatable): files and batches "
            "belong to their key's name. Default: GLINTHAWK_API_KEY, where several have spaces "
            "between; without any, everybody may call.",
            envvar=API_KEY_VARIABLE,
        ),
    ] = None
    ssl_keyfile: Annotated[
        Path | None, typer.Option(help="Private key of this server, for TLS.")
    ] = None
    ssl_certfile: Annotated[Path | None, typer.Option(help="Its certificate.")] = None
    max_file_size: Annotated[
        str, typer.Option(help="Most bytes of a file that is uploaded.", metavar="SIZE")
    ] = "4GiB"
    max_body_size: Annotated[
        str,
        typer.Option(
            help="Most bytes of a request's body, and of a line of a batch.", metavar="SIZE"
        ),
    ] = "16MiB"
    max_batch_lines: Annotated[int, typer.Option(help="Most requests of a batch.", min=1)] = (
        1_000_000
    )
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False
    log_json: LogJsonFlag = False

    def __post_init__(self) -> None:
        if (self.ssl_keyfile is None) != (self.ssl_certfile is None):
            raise UsageError("TLS needs --ssl-keyfile and --ssl-certfile; give both, or neither")
        for option, path in {
            "--ssl-keyfile": self.ssl_keyfile,
            "--ssl-certfile": self.ssl_certfile,
        }.items():
            if path is not None and not path.is_file():
                raise UsageError(f"{option}: there is no file {path}; give another one")
