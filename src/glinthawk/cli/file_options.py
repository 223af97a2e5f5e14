"""Which input ``glinthawk run`` answers where, and what of a table's row is asked."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glinthawk.cli.outputs import check_output
from glinthawk.core.errors import UsageError
from glinthawk.files.places import STANDARD, is_url

if TYPE_CHECKING:
    from glinthawk.files.conversion import ConversionOptions

__all__ = ["FileOptions"]

_ALL = "all"


def _check_place(parameter: typer.CallbackParam, place: str) -> str:
    check_output(parameter, _path(place))
    return place


def _path(place: str) -> Path | None:
    """None of a URL, and of what the shell gives."""
    return None if is_url(place) or place == STANDARD else Path(place)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions:
    """As they are given; ``resolve`` checks them."""

    input: Annotated[
        str,
        typer.Option(
            "-i",
            "--input",
            help="OpenAI batch lines, or a table: JSONL, a JSON array, CSV or Parquet, packed or "
            "not; a file, folder, pattern or URL (s3://...); a dataset's folder or hub name; - is "
            "standard input.",
        ),
    ]
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            help="Result lines are appended here. Of .gz, .zst, .parquet and a URL it is made when "
            "every line has its result; - is standard output.",
            callback=_check_place,
        ),
    ]
    prompt_column: Annotated[
        str | None, typer.Option(help="The table's column with the prompt.")
    ] = None
    messages_column: Annotated[
        str | None, typer.Option(help="The table's column with a chat's messages.")
    ] = None
    template: Annotated[
        str | None,
        typer.Option(
            help="The prompt, in Jinja over the table's columns: 'Summarise: {{ text }}'."
        ),
    ] = None
    id_column: Annotated[
        str | None,
        typer.Option(help="The table's column with the custom_id.", show_default="row numbers"),
    ] = None
    endpoint: Annotated[
        str,
        typer.Option(
            help="Whether a prompt is a user's message (chat), a text to go on with (completions) "
            "or one to embed (embeddings).",
            metavar="chat|completions|embeddings",
        ),
    ] = "chat"
    body: Annotated[
        str | None,
        typer.Option(
            help="More fields of every row's request: '{\"top_p\": 0.9}'.", metavar="JSON"
        ),
    ] = None
    max_tokens: Annotated[int | None, typer.Option(help="Of every row's request.")] = None
    temperature: Annotated[float | None, typer.Option(help="Of every row's request.")] = None
    split: Annotated[str | None, typer.Option(help="Of a dataset.")] = None
    keep_columns: Annotated[
        str | None,
        typer.Option(
            help="Columns of the table that stand beside the answers in Parquet: all, or a,b,c.",
            metavar="NAMES",
        ),
    ] = None
    shard: Annotated[
        str | None,
        typer.Option(
            help="Answer a share of the lines: 3/16 is the third of every 16. See `glinthawk "
            "merge`.",
            metavar="N/M",
        ),
    ] = None
    work_dir: Annotated[
        Path | None,
        typer.Option(
            help="Where requests and results lie while the job runs, if the output is not made "
            "of lines or is a URL.",
            show_default="beside the output; of a URL, here",
            exists=True,
            file_okay=False,
            writable=True,
        ),
    ] = None

    def local(self) -> dict[str, Path | None]:
        """Files here that these options name, by the option."""
        return {"-i": _path(self.input), "-o": _path(self.output)}

    def resolve(self, *, restart: bool, written: Iterable[Path | None] = ()) -> "ConversionOptions":
        """``written`` are other files of the run. Raises UsageError if they do not go together."""
        from glinthawk.files.conversion import ConversionOptions
        from glinthawk.files.request_maker import TableOptions
        from glinthawk.files.shard import Shard

        table = TableOptions(
            prompt_column=self.prompt_column,
            messages_column=self.messages_column,
            template=self.template,
            id_column=self.id_column,
            endpoint=self.endpoint,
            body=self._body(),
        )
        return ConversionOptions(
            input=self.input,
            output=self.output,
            table=table,
            split=self.split,
            keep_columns=self._kept(),
            shard=Shard.parse(self.shard) if self.shard else None,
            work_dir=self.work_dir,
            restart=restart,
            written=tuple(path for path in written if path is not None),
        )

    def _body(self) -> dict[str, Any]:
        import msgspec

        try:
            body = msgspec.json.decode(self.body or "{}", type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise UsageError(f"--body is not a JSON object ({error}); correct it") from error
        named = {"max_tokens": self.max_tokens, "temperature": self.temperature}
        return body | {name: value for name, value in named.items() if value is not None}

    def _kept(self) -> tuple[str, ...] | None:
        if self.keep_columns is None or self.keep_columns == _ALL:
            return () if self.keep_columns else None
        return tuple(name.strip() for name in self.keep_columns.split(","))
