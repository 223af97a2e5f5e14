"""Weights from files or at random; of a whole model or of a slice alone.

Files are read by transformers' own loader, which knows every layout of a checkpoint. It is given a
model without the layers outside the slice, and only the files that hold something of the rest.
"""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from glinthawk.core.errors import ModelError
from glinthawk.core.slices import LayerSlice
from glinthawk.tier1.model.heads import auto_class
from glinthawk.tier1.model.module_trace import Outline, outline_model
from glinthawk.tier1.model.slicing import join_slice, leave_out
from glinthawk.tier1.quantized.checkpoint_loading import keep_quantized
from glinthawk.tier1.quantized.gguf_weights import open_gguf
from glinthawk.tier1.quantized.scheme import READABLE

__all__ = ["load_weights", "make_random"]


def load_weights(
    source: str,
    dtype: torch.dtype | str,
    part: LayerSlice,
    trust: bool = False,
    device: str = "cpu",
) -> tuple[PreTrainedModel, list[str]]:
    """The model's ``part``, on the CPU but meant for ``device``, and the names of weights that its
    files lack. With ``trust``, code that came with them may run. Raises ModelError for weights of
    another shape."""
    options = {"dtype": dtype, "ignore_mismatched_sizes": True, "output_loading_info": True}
    settings = AutoConfig.from_pretrained(source, trust_remote_code=trust)
    tensors = open_gguf(source, settings, dtype)
    place = source if tensors is None else None
    try:
        keep_quantized(settings, device)
    except ValueError as error:
        raise ModelError(
            f"{source} cannot be read: {error}; give a model in {READABLE}, or one whose weights "
            "are not quantised"
        ) from error
    if part.is_whole:
        kind = (
            auto_class(settings) if tensors is None else type(_make_empty(settings, dtype, trust))
        )
        model, info = kind.from_pretrained(
            place, config=settings, trust_remote_code=trust, state_dict=tensors, **options
        )
        _check_shapes(source, info)
        return model, sorted(info["missing_keys"])
    skeleton = _make_empty(settings, dtype, trust)
    own, config = type(skeleton), skeleton.config
    outline = outline_model(skeleton)
    model, info = _sliced_class(own, part, outline).from_pretrained(
        place, config=config, trust_remote_code=trust, state_dict=tensors, **options
    )
    _check_shapes(source, info)
    model.__class__ = own
    join_slice(model, part)
    return model, sorted(info["missing_keys"])


def _check_shapes(source: str, info: dict[str, Any]) -> None:
    """transformers would fill them with random numbers, or print a table and give up."""
    for name, found, wanted in sorted(info["mismatched_keys"], key=str):
        raise ModelError(
            f"{source}: {name} is {tuple(found)} in the files and {tuple(wanted)} by config.json; "
            "give the config.json that belongs to the weights"
        )


def make_random(
    source: str,
    dtype: torch.dtype | str,
    device: torch.device,
    part: LayerSlice,
    trust: bool = False,
) -> PreTrainedModel:
    """The architecture of ``source`` with random weights, the same at every call. A slice has those
    that the whole model would have."""
    settings = AutoConfig.from_pretrained(source, trust_remote_code=trust)
    if dtype == "auto":
        dtype = settings.get_text_config().dtype or torch.float32
    model = _make_empty(settings, dtype, trust)
    if not part.is_whole:
        leave_out(model, part, outline_model(_make_empty(settings, dtype, trust)))
    model.to_empty(device=device)
    _seed_by_name(model)
    model.init_weights()
    if not part.is_whole:
        join_slice(model, part)
    return model


def _make_empty(settings: Any, dtype: torch.dtype | str, trust: bool) -> PreTrainedModel:
    """On the meta device: shapes without memory."""
    chosen = {} if dtype == "auto" else {"dtype": dtype}
    with torch.device("meta"):
        model: PreTrainedModel = auto_class(settings).from_config(
            settings, trust_remote_code=trust, **chosen
        )
    return model


def _seed_by_name(model: PreTrainedModel) -> None:
    """Every module draws random numbers of its own, whatever else there is in the model."""
    names = {module: name for name, module in model.named_modules()}

    def seed_first(init: Callable[[torch.nn.Module], None]) -> Callable[[torch.nn.Module], None]:
        def init_seeded(module: torch.nn.Module) -> None:
            torch.manual_seed(zlib.crc32(names[module].encode()))
            init(module)

        return init_seeded

    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module._init_weights = seed_first(module._init_weights)


def _sliced_class(
    own: type[PreTrainedModel], part: LayerSlice, outline: Outline
) -> type[PreTrainedModel]:
    """``own``, but between its making and its loading what is outside of ``part`` is left out."""

    def load(model: PreTrainedModel, state: Any, files: Any, config: Any, *rest: Any) -> Any:
        leave_out(model, part, outline)
        files = _touched_files(model, files, config)
        info, offloaded = own._load_pretrained_model(model, state, files, config, *rest)
        info.unexpected_keys.clear()  # other slices' weights
        return info, offloaded

    members = {"__module__": own.__module__, "_load_pretrained_model": staticmethod(load)}
    return type(own.__name__, (own,), members)


def _touched_files(model: PreTrainedModel, files: list[str], config: Any) -> list[str]:
    """Those of a checkpoint's files that hold weights of ``model``."""
    weight_map: dict[str, str] = (config.sharded_metadata or {}).get("weight_map", {})
    mapping, keys = config.weight_mapping or [], model.state_dict()
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]

    def is_wanted(key: str) -> bool:
        renamed, _ = rename_source_key(key, renamings, converters, model.base_model_prefix, keys)
        return renamed in keys or key in keys

    names = {Path(name).name for key, name in weight_map.items() if is_wanted(key)}
    return [file for file in files if Path(file).name in names] if weight_map else files
