"""Shapes of models: well-known ones by name without a download, all others from config.json."""

import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

import msgspec

from glinthawk.core.errors import UsageError
from glinthawk.core.shape import LayerShape, ModelShape
from glinthawk.core.spec import DTYPE_BYTES, AttentionLayer

__all__ = ["known_models", "known_shape", "same_model", "shape_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """What models.toml says of a model."""

    dtype: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    mlp: Literal["gated", "plain"]
    vocab: int
    max_model_len: int
    tied: bool = False
    experts: int = 1
    experts_per_token: int = 1
    aliases: tuple[str, ...] = ()

    @property
    def attention_params(self) -> int:
        """Of the four projections and the layer's two norms."""
        width = self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.hidden * width + 2 * self.hidden

    @property
    def expert_params(self) -> int:
        """Of one expert, or of the whole MLP where there are none."""
        return (3 if self.mlp == "gated" else 2) * self.hidden * self.intermediate

    @property
    def router_params(self) -> int:
        return self.hidden * self.experts if self.experts > 1 else 0


def known_models() -> list[str]:
    """Names that ``known_shape`` takes."""
    return list(_entries())


def known_shape(name: str, dtype: str = "auto") -> ModelShape:
    """By a name of models.toml or of the same model on the hub, in any case; ``auto`` is the type
    of the published weights. Raises UsageError for any other name."""
    found = _names().get(_key(name))
    if found is None:
        raise UsageError(_unknown(name))
    entry = _entries()[found]
    fixed = entry.attention_params + entry.router_params
    layer = LayerShape(
        attention=AttentionLayer(
            num_heads=entry.heads,
            num_kv_heads=entry.kv_heads,
            head_dim=entry.head_dim,
            value_dim=entry.head_dim,
            scaling=entry.head_dim**-0.5,
        ),
        params=fixed + entry.experts * entry.expert_params,
        active_params=fixed + entry.experts_per_token * entry.expert_params,
    )
    return ModelShape(
        name=found,
        hidden_size=entry.hidden,
        max_model_len=entry.max_model_len,
        dtype=_check_dtype(entry.dtype if dtype == "auto" else dtype),
        layers=(layer,) * entry.layers,
        embedding_params=entry.vocab * entry.hidden,
        head_params=entry.vocab * entry.hidden,
        is_tied=entry.tied,
    )


def shape_of(name: str, dtype: str = "auto", trust_remote_code: bool = False) -> ModelShape:
    """Of a folder with a config.json (``demo`` is one), a well-known model, or any other model of
    the hub, whose config.json alone is then fetched. With ``trust_remote_code``, code that comes
    with it may run. Raises UsageError."""
    if name == "demo" or Path(name).exists() or Path(name).is_absolute() or name.startswith("."):
        return _read(name, dtype, trust_remote_code)
    if _key(name) in _names():
        return known_shape(name, dtype)
    if "/" in name:
        return _read(name, dtype, trust_remote_code)
    raise UsageError(_unknown(name))


def same_model(one: str, other: str) -> bool:
    """Whether two names are of one model: a folder's or hub name's last part decides, and other
    names of a well-known model are the same."""
    first, second = (_key(name.rstrip("/")) for name in (one, other))
    return _names().get(first, first) == _names().get(second, second)


def _read(name: str, dtype: str, trust: bool) -> ModelShape:
    from glinthawk.tier1.model.parameter_count import read_shape  # torch and transformers: seconds

    return read_shape(name, dtype if dtype == "auto" else _check_dtype(dtype), trust)


def _check_dtype(dtype: str) -> str:
    if dtype not in DTYPE_BYTES:
        raise UsageError(f"dtype must be auto or one of {', '.join(DTYPE_BYTES)}, not {dtype!r}")
    return dtype


def _unknown(name: str) -> str:
    near = get_close_matches(_key(name), _names(), n=1, cutoff=0.5)
    guess = f" Did you mean {_names()[near[0]]}?" if near else ""
    return (
        f"there is no shape of {name!r}.{guess} Give a folder with the model's config.json, its "
        f"hub name (owner/model), or one of {', '.join(known_models())}."
    )


def _key(name: str) -> str:
    """A hub name without its owner."""
    return name.rsplit("/", 1)[-1].lower()


@cache
def _names() -> dict[str, str]:
    entries = _entries().items()
    return {_key(one): name for name, entry in entries for one in (name, *entry.aliases)}


@cache
def _entries() -> dict[str, _Entry]:
    text = (files("glinthawk.planner") / "models.toml").read_text()
    return msgspec.convert(tomllib.loads(text), dict[str, _Entry])
