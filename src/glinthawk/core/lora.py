"""LoRA adapters of a run: how they are named, and what tells one from another."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from glinthawk.core.errors import ModelError, UsageError

__all__ = [
    "SETTINGS",
    "WEIGHTS",
    "LoraSource",
    "adapter_names",
    "find_adapter_folder",
    "identify_adapters",
    "parse_lora",
]

#: What PEFT writes into an adapter's folder.
SETTINGS = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_CHUNK = 1 << 20


class _Module(msgspec.Struct):
    """As vLLM's ``--lora-modules`` takes it too."""

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class LoraSource:
    """A folder in PEFT's format. Requests that ask for ``name`` take it; without a name it is part
    of the model, and all take it."""

    name: str | None
    path: str


def parse_lora(texts: Sequence[str]) -> tuple[LoraSource, ...]:
    """``NAME=PATH``, ``{"name": NAME, "path": PATH}``, or ``PATH`` alone. Raises UsageError for
    what is none of them, or does not go together.

    >>> parse_lora(["sql=./sql"])
    (LoraSource(name='sql', path='./sql'),)
    """
    sources = tuple(map(_parse, texts))
    names = [source.name for source in sources]
    if None in names and len(names) > 1:
        raise UsageError(
            "`lora` without a name is for all lines, and stands alone: give each adapter a name, "
            "NAME=PATH"
        )
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"`lora` has {name} twice; give each adapter a name of its own")
    return sources


def _parse(text: str) -> LoraSource:
    if text.lstrip().startswith("{"):
        return _parse_json(text)
    name, equals, path = text.partition("=")
    source = LoraSource(name, path) if equals else LoraSource(None, text)
    if not source.path or source.name == "":
        raise UsageError(f"`lora` is NAME=PATH, or PATH for all lines, not {text!r}")
    return source


def _parse_json(text: str) -> LoraSource:
    try:
        module = msgspec.json.decode(text, type=_Module)
    except msgspec.DecodeError as error:
        raise UsageError(f"`lora` as JSON has a name and a path; {text!r}: {error}") from error
    return LoraSource(module.name, module.path)


def adapter_names(texts: Sequence[str]) -> tuple[str, ...]:
    """By which requests ask for adapters, in order; the first is number 1."""
    return tuple(source.name for source in parse_lora(texts) if source.name is not None)


def identify_adapters(texts: Sequence[str]) -> dict[str, str]:
    """A digest of each adapter's two files, by its name; "" stands for none. Raises ModelError
    where there is no adapter."""
    return {
        source.name or "": _identify(find_adapter_folder(source)) for source in parse_lora(texts)
    }


def find_adapter_folder(source: LoraSource) -> Path:
    """Its folder. Raises ModelError if that is none of an adapter."""
    folder = Path(source.path)
    missing = [name for name in (SETTINGS, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"--lora {source.path}: there is no {missing[0]}; give a folder that PEFT has written, "
            "with weights as safetensors. Of an adapter on a hub, download the folder"
        )
    return folder


def _identify(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in (SETTINGS, WEIGHTS):
        with (folder / name).open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"
