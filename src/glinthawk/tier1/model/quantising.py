"""A model folder from which another one is made, with weights in few bits: a file at a time."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig

from glinthawk.core.errors import ModelError
from glinthawk.core.source import refuse_code
from glinthawk.tier1.model.heads import auto_class
from glinthawk.tier1.model.module_trace import find_layers
from glinthawk.tier1.model.shards import check_shards
from glinthawk.tier1.quantized.rounding import RoundedForm

__all__ = ["quantise_folder"]

_Round = Callable[[str, torch.Tensor], dict[str, torch.Tensor]]

_INDEX = "model.safetensors.index.json"
#: Of other programs' weights, which would contradict these.
_NOT_COPIED = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")


def quantise_folder(
    source: Path,
    target: Path,
    form: RoundedForm,
    group: int,
    importance: Mapping[str, torch.Tensor] | None = None,
    trust: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> int:
    """Write the model in ``source`` to the new folder ``target``, with the linear layers of its
    decoder layers in ``form``; ``importance`` (K,) is of their inputs, by their names. Returns how
    many layers those are.

    Memory is what one file of the source takes, before and after. Raises ModelError for a model
    that cannot be quantised; then there is no ``target``.
    """
    settings = _read_settings(source)
    model = _make_skeleton(source, trust)
    names = _find_linears(source, model, group if form.has_groups else None)
    files = _find_files(source, names)
    target.mkdir(parents=True)
    try:
        for number, path in enumerate(files, start=1):
            tell(f"{path.name} ({number} of {len(files)})")
            rounded = _round_file(
                path,
                names,
                lambda layer, weight: form.round(weight, group, (importance or {}).get(layer)),
            )
            save_file(rounded, target / path.name, metadata={"format": "pt"})
        _write_index(target, files)
        _copy_others(source, target)
        plain = {name for name, module in model.named_modules() if type(module) is nn.Linear}
        settings["quantization_config"] = form.settings(group, sorted(plain - names))
        (target / "config.json").write_text(json.dumps(settings, indent=2))
    except BaseException:
        shutil.rmtree(target)
        raise
    return len(names)


def _round_file(path: Path, names: set[str], round_weight: _Round) -> dict[str, torch.Tensor]:
    """What stands in its place."""
    tensors: dict[str, torch.Tensor] = {}
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  # it is no mapping
            layer = name.removesuffix(".weight")
            if layer == name or layer not in names:
                tensors[name] = file.get_tensor(name)
                continue
            weight = file.get_tensor(name)
            if not weight.isfinite().all():
                raise ModelError(f"{path}: {name} has numbers that are not finite")
            rounded = round_weight(layer, weight)
            tensors |= {f"{layer}.{end}": one for end, one in rounded.items()}
    return tensors


def _find_files(source: Path, names: set[str]) -> list[Path]:
    """Those with its weights, which must be the ones that it is made of."""
    files = sorted(source.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{source} has no *.safetensors files; download the model in that format")
    check_shards(source)
    there = {key for path in files for key in _keys(path)}
    if missing := sorted(name for name in names if f"{name}.weight" not in there):
        raise ModelError(f"{source} has no weight of {missing[0]}, so it cannot be quantised here")
    return files


def _write_index(target: Path, files: list[Path]) -> None:
    if len(files) > 1:
        where = {key: path.name for path in files for key in _keys(target / path.name)}
        index = {"metadata": {}, "weight_map": where}
        (target / _INDEX).write_text(json.dumps(index, indent=2))


def _keys(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def _read_settings(source: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((source / "config.json").read_text())
    if "quantization_config" in settings:
        raise ModelError(f"{source} is quantised already; give the model that it was made of")
    return settings


def _make_skeleton(source: Path, trust: bool) -> Any:
    """On the meta device."""
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust)
        with torch.device("meta"):
            return auto_class(config).from_config(config, trust_remote_code=trust)
    except (OSError, ValueError, KeyError, ImportError) as error:
        refuse_code(str(source), error)
        raise ModelError(f"cannot read {source}/config.json: {error}") from error


def _find_linears(source: Path, model: Any, group: int | None) -> set[str]:
    """Those inside decoder layers whose inputs come in whole groups, by their names."""
    path, layers = find_layers(model)
    if any(one.dim() > 2 for layer in layers for one in layer.parameters()):
        raise ModelError(f"{source} has experts, which are not quantised here")
    found = {
        f"{path}.{number}.{name}"
        for number, layer in enumerate(layers)
        for name, module in layer.named_modules()
        if type(module) is nn.Linear and module.in_features % (group or 1) == 0
    }
    if not found and group is None:
        raise ModelError(f"{source} has no linear layers in its decoder layers")
    if not found:
        raise ModelError(
            f"{source} has no linear layers of whole groups of {group} inputs; give a smaller "
            "--group-size"
        )
    return found


def _copy_others(source: Path, target: Path) -> None:
    """Tokenizer, chat template, generation settings, and how embeddings are pooled."""
    for path in sorted([*source.iterdir(), *source.glob("*_*/config.json")]):
        if path.is_file() and path.suffix not in _NOT_COPIED and path.name != _INDEX:
            place = target / path.relative_to(source)
            place.parent.mkdir(exist_ok=True)
            shutil.copy2(path, place)
