"""``glinthawk quantize``."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from glinthawk.cli.options import SettingsOf, spread
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import ModelError, UsageError

if TYPE_CHECKING:
    import torch

__all__ = ["quantize"]

_SETTINGS = ("model", "trust_remote_code")
#: Tokens of a calibration text that are looked at, and of a window of either text.
_MOST_CALIBRATION, _WINDOW = 65_536, 1024


@spread
def quantize(
    *,
    settings: Annotated[dict[str, Any], SettingsOf(EngineConfig, _SETTINGS)],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="A new folder for the quantised model.")
    ],
    scheme: Annotated[
        Literal["w4a16", "w8a16", "w8a8"],
        typer.Option(help="Bits of weights and of activations, as in compressed-tensors."),
    ] = "w4a16",
    group_size: Annotated[
        int, typer.Option(help="Inputs that share a scale, with w4a16: a multiple of 8.", min=16)
    ] = 128,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="A text file: weights of inputs that are large in it are rounded with more care.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    perplexity: Annotated[
        Path | None,
        typer.Option(
            help="A text file: print the perplexity of both models on it.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
) -> None:
    """Make a model with 4- or 8-bit weights, which vLLM reads as well.

    Linear layers of decoder layers are rounded to nearest, with the scale of least error for each
    group; the rest stays as it is.
    """
    from transformers.utils import logging as transformers_logging

    from glinthawk.tier1.model.quantising import quantise_folder
    from glinthawk.tier1.quantized.rounding import SCHEMES

    transformers_logging.disable_progress_bar()
    model, trust = settings["model"], settings["trust_remote_code"]
    if output.exists():
        raise UsageError(f"-o: {output} is there already; give a new folder")
    if group_size % 8:
        raise UsageError(f"--group-size must be a multiple of 8, not {group_size}")
    folder, form = _find_folder(model), SCHEMES[scheme]
    windows = {
        name: _read_windows(name, folder, text, trust)
        for name, text in (("--calibration", calibration), ("--perplexity", perplexity))
        if text is not None
    }
    importance: Mapping[str, torch.Tensor] = {}
    if calibration is not None:
        importance = _calibrate(folder, windows["--calibration"], trust)
    count = quantise_folder(folder, output, form, group_size, importance, trust, _say)
    before, after = (_count_bytes(each) for each in (folder, output))
    typer.echo(f"{output}: {count} layers in {scheme}, {before:,} -> {after:,} bytes", err=True)
    if perplexity is not None:
        _compare(folder, output, windows["--perplexity"], trust)


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _find_folder(model: str) -> Path:
    """On this machine; what the hub has is fetched."""
    from glinthawk.core.hub import check_hub
    from glinthawk.core.source import resolve_model

    source = resolve_model(model)
    if Path(source).is_dir():
        return Path(source)
    check_hub(source)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source))
    except Exception as error:  # the hub's client raises whatever it likes
        raise ModelError(f"cannot fetch {model!r}: {error}") from error


_Windows = list[tuple[int, ...]]


def _read_windows(option: str, folder: Path, path: Path, trust: bool) -> _Windows:
    """A text in parts that the model takes."""
    from transformers import AutoConfig

    from glinthawk.engine.perplexity import cut_windows
    from glinthawk.jobs.text import Text

    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust).get_text_config()
    most = getattr(config, "max_position_embeddings", None) or _WINDOW
    try:
        tokens = Text.load(folder, trust).encode(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{option}: cannot read {path} as text: {error}") from error
    windows = cut_windows(tokens, min(_WINDOW, most))
    if not windows:
        raise UsageError(f"{option}: {path} has less than two tokens")
    return windows


def _calibrate(folder: Path, windows: _Windows, trust: bool) -> "Mapping[str, torch.Tensor]":
    from glinthawk.tier1.model.calibration import measure_importance

    some = windows[: max(1, _MOST_CALIBRATION // len(windows[0]))]
    _say(f"calibrating on {sum(map(len, some)):,} tokens")
    return measure_importance(str(folder), some, trust)


def _compare(folder: Path, output: Path, windows: _Windows, trust: bool) -> None:
    from glinthawk.engine.perplexity import measure_perplexity

    before, after = (
        measure_perplexity(EngineConfig(model=str(each), trust_remote_code=trust), windows)
        for each in (folder, output)
    )
    typer.echo(f"perplexity {before:.3f} -> {after:.3f} ({after / before - 1:+.2%})")


def _count_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
