"""How a model's hidden states become vectors and scores: what its files say.

sentence-transformers lists in ``modules.json`` what follows a model, and keeps each module's own
settings in its folder. vLLM's settings for rerankers stand in config.json, if somebody has put them
there: ``classifier_from_token`` and ``is_original_qwen3_reranker``.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from glinthawk.core.errors import ModelError, RequestError
from glinthawk.core.model_kind import ModelKind, kind_of
from glinthawk.core.pooling import PooledRows

__all__ = ["Pooler", "Reranker", "load_pooler"]

#: By which means a model that has logits of tokens scores pairs of texts.
Reranker = Literal["auto", "qwen3", "none"]

#: What the settings of sentence-transformers' pooling call the rows, in its old form and its new.
_ROWS: dict[str, PooledRows] = {
    "pooling_mode_lasttoken": "last",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "first",
    "lasttoken": "last",
    "mean": "mean",
    "cls": "first",
}
_KNOWN_MODULES = {"Transformer", "Pooling", "Normalize"}
_QWEN3_TOKENS = ("no", "yes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooler:
    """Of a decoder: its last token, to the length 1, unless its files say otherwise."""

    kind: ModelKind = "causal"
    hidden_size: int = 1
    rows: PooledRows = "last"
    normalizes: bool = True
    #: What keeps it from giving embeddings; empty: nothing.
    refusal: str = ""
    #: Of a classifier.
    num_labels: int = 1
    #: Whether a score is the sigmoid of what the model says.
    activates: bool = True
    #: Scores are the first token's logit, or the second's less the first's. None: embeddings are
    #: compared.
    tokens: tuple[str, ...] = ()
    #: Whether pairs are put as Qwen3-Reranker was trained on them.
    asks_as_qwen3: bool = False

    def require_head(self) -> None:
        """Raise RequestError for a model that answers nothing."""
        if self.kind != "causal":
            use = "scores (/v1/score)" if self.kind == "classifier" else "embeddings"
            raise RequestError(
                f"this model has no head that makes tokens, so it answers nothing; ask it for {use}"
                ", or use a model whose architecture ends with ForCausalLM",
                param="url",
                code="model_not_supported",
            )

    def scoring_by(self, reranker: Reranker) -> "Pooler":
        """The same, where the user has said how pairs are scored."""
        match reranker:
            case "qwen3":
                tokens = _QWEN3_TOKENS if self.kind == "causal" else ()
                return replace(self, tokens=tokens, asks_as_qwen3=True)
            case "none":
                return replace(self, tokens=(), asks_as_qwen3=False)
            case "auto":
                return self


def load_pooler(model: str | Path, trust: bool = False) -> Pooler:
    """Of a model folder or hub name. Raises ModelError."""
    from transformers import AutoConfig

    try:
        settings = AutoConfig.from_pretrained(str(model), trust_remote_code=trust)
    except (OSError, ValueError) as error:
        raise ModelError(f"config.json of {model} cannot be read: {error}") from error
    tokens = _judging_tokens(settings)
    own = getattr(settings, "auto_map", None)
    kind = kind_of(settings.architectures, judges=bool(tokens), auto_map=own)
    is_qwen3 = _is_qwen3(settings, Path(model).name)
    if is_qwen3 and kind == "causal":
        tokens = tokens or _QWEN3_TOKENS
    pooler = Pooler(
        kind=kind,
        hidden_size=_hidden_size(settings.get_text_config()),
        num_labels=settings.num_labels if kind == "classifier" else 1,
        activates=_activates(settings),
        tokens=tokens,
        asks_as_qwen3=is_qwen3,
    )
    return _pooled_as_told(pooler, model)


def _judging_tokens(settings: Any) -> tuple[str, ...]:
    return tuple(getattr(settings, "classifier_from_token", None) or ())


def _is_qwen3(settings: Any, name: str) -> bool:
    """Qwen3-Reranker's own config.json is that of any Qwen3; its name tells."""
    told = getattr(settings, "is_original_qwen3_reranker", None)
    return settings.model_type == "qwen3" and (
        "qwen3-reranker" in name.casefold() if told is None else bool(told)
    )


def _hidden_size(text: Any) -> int:
    """Some OPT models end with fewer numbers than they have within."""
    size: int = getattr(text, "word_embed_proj_dim", None) or text.hidden_size
    return size


def _activates(settings: Any) -> bool:
    """Rerankers say what follows the head in one of three ways, if they do."""
    own = getattr(settings, "sentence_transformers", None) or {}
    told = own.get("activation_fn") or getattr(
        settings, "sbert_ce_default_activation_function", None
    )
    if told is not None:
        return not str(told).endswith("Identity")
    return getattr(settings, "problem_type", None) != "regression"


def _pooled_as_told(pooler: Pooler, model: str | Path) -> Pooler:
    """As sentence-transformers' files say, if there are any."""
    modules = _read_json(model, "modules.json") or []
    kinds = {str(module["type"]).rpartition(".")[2]: module for module in modules}
    if "Pooling" not in kinds:
        return pooler
    pooling = _read_json(model, f"{kinds['Pooling']['path']}/config.json") or {}
    names = [name for name, value in pooling.items() if name.startswith("pooling_mode_") and value]
    names = names or [str(pooling.get("pooling_mode"))]
    unknown = sorted(kinds.keys() - _KNOWN_MODULES) or [name for name in names if name not in _ROWS]
    if unknown or len(names) != 1:
        what = " and ".join(unknown or names)
        refusal = f"its embeddings are made with {what}, which is not done here"
        return replace(pooler, refusal=refusal)
    return replace(pooler, rows=_ROWS[names[0]], normalizes="Normalize" in kinds)


def _read_json(model: str | Path, name: str) -> Any:
    """A file of the model's; None if there is none."""
    from transformers.utils import cached_file

    path = cached_file(
        str(model),
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if path is None:
        return None
    try:
        return json.loads(Path(path).read_bytes())
    except ValueError as error:
        raise ModelError(f"{name} of {model} is no JSON ({error}); download it again") from error
