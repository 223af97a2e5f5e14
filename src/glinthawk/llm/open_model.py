"""A model that is ready to answer: its run, its text and what it says of sampling."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import UsageError
from glinthawk.core.lora import adapter_names
from glinthawk.core.lora_request import LoRARequest, number_adapter
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.setting import list_settings
from glinthawk.core.source import resolve_model
from glinthawk.core.vllm_settings import explain_unknown
from glinthawk.engine.run import Run, open_run
from glinthawk.engine.shared_engine import SharedEngine
from glinthawk.jobs.text import Text
from glinthawk.tokens.generation_defaults import load_sampling_defaults
from glinthawk.tokens.pooler import Pooler, load_pooler

__all__ = ["OpenModel", "make_config", "open_model", "share_model"]


@dataclass(frozen=True, slots=True)
class OpenModel:
    """``defaults`` are of the model's generation_config.json."""

    config: EngineConfig
    text: Text
    run: Run
    defaults: dict[str, Any]
    eos_token_ids: frozenset[int]
    pooler: Pooler

    @property
    def default_params(self) -> SamplingParams:
        """What answers are sampled by that no parameters are given for."""
        return SamplingParams(**self.defaults)

    def number_adapter(self, asked: LoRARequest | str | None) -> int:
        """Of the one that is asked for. Raises UsageError for one that there is not."""
        return number_adapter(asked, adapter_names(self.config.lora))

    @property
    def tokenizer(self) -> Any:
        """As ``transformers`` made it. Raises UsageError if there is none."""
        if self.text.tokenizer is None:
            raise UsageError("this model has no tokenizer; give prompts as token ids")
        return self.text.tokenizer


@contextmanager
def open_model(config: EngineConfig) -> Iterator[OpenModel]:
    """Held open within the block. Raises UsageError, ModelError or WorkerError; then nothing is
    left behind."""
    text = _load_text(config)
    with open_run(config) as run:
        yield _complete(config, text, run)


@contextmanager
def share_model(config: EngineConfig) -> Iterator[tuple[OpenModel, SharedEngine]]:
    """As ``open_model``, with the engine on a thread of its own for all who ask it."""
    text = _load_text(config)
    with SharedEngine(open_run(config)) as engine:
        yield _complete(config, text, engine.run), engine


def _load_text(config: EngineConfig) -> Text:
    return Text.load(resolve_model(config.model), config.trust_remote_code)


def _complete(config: EngineConfig, text: Text, run: Run) -> OpenModel:
    source = resolve_model(config.model)
    eos_token_ids = text.eos_token_ids(source, config.trust_remote_code)
    pooler = load_pooler(source, config.trust_remote_code)
    return OpenModel(config, text, run, load_sampling_defaults(source), eos_token_ids, pooler)


def make_config(
    owner: str, model: str, tier2: str | Sequence[str], settings: dict[str, Any]
) -> EngineConfig:
    """Of keywords of ``owner``. Raises TypeError for one that there is not."""
    known = [one.name for one in list_settings(EngineConfig)]
    for name in settings:
        if name not in known:
            advice = explain_unknown(name, known)
            raise TypeError(f"{owner}() got an unexpected keyword argument {name!r}: {advice}")
    places = (tier2,) if isinstance(tier2, str) else tuple(tier2)
    settings = {**settings, "lora": _list_adapters(settings.get("lora", ()))}
    return EngineConfig(model=model, tier2=places, **settings)


def _list_adapters(lora: str | Sequence[str] | Mapping[str, object]) -> tuple[str, ...]:
    """One, several, or paths by their names."""
    if isinstance(lora, Mapping):
        return tuple(f"{name}={path}" for name, path in lora.items())
    return (lora,) if isinstance(lora, str) else tuple(lora)
