"""What stands behind a decoder, by the name of a checkpoint's architecture."""

from collections.abc import Collection, Sequence
from typing import Literal

__all__ = ["ModelKind", "kind_of"]

#: A head that makes logits of tokens, none at all, or one that makes a few labels' logits.
ModelKind = Literal["causal", "base", "classifier"]


def kind_of(
    architectures: Sequence[str] | None,
    judges: bool = False,
    auto_map: Collection[str] | None = None,
) -> ModelKind:
    """By config.json's ``architectures``. A model that ``judges`` by its tokens' logits has them,
    whatever it is called; so has one whose own code, by its ``auto_map``, is a causal model.

    >>> kind_of(["Qwen3ForCausalLM"]), kind_of(["GPT2LMHeadModel"]), kind_of(["MistralModel"])
    ('causal', 'causal', 'base')
    """
    name = (architectures or ["ForCausalLM"])[0]
    if judges or "AutoModelForCausalLM" in (auto_map or ()):
        return "causal"
    if name.endswith("ForSequenceClassification"):
        return "classifier"
    return "base" if name.endswith("Model") and not name.endswith("HeadModel") else "causal"
