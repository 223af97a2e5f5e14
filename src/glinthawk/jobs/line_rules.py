"""How lines are understood, and what their answers look like: choices of a job."""

from dataclasses import dataclass
from typing import Annotated, Literal

from glinthawk.core.errors import UsageError
from glinthawk.core.setting import Setting, check_settings, list_settings
from glinthawk.tokens.pooler import Reranker

__all__ = ["LineRules"]

_Defaults = Literal["auto", "none", "vllm"]
_Tools = Literal["auto", "openai", "mistral", "qwen3_coder", "glm45", "hermes", "llama3_json"]
_Reasoning = Literal["auto", "none", "openai_gptoss", "qwen3", "deepseek_r1", "mistral", "seed_oss"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LineRules:
    """Raises UsageError for values that cannot be."""

    strict: Annotated[
        bool,
        Setting("Refuse fields that are not supported even where they change no answer."),
    ] = False
    served_model_name: Annotated[
        str | None,
        Setting("What answers call the model; lines that ask for another one are errors."),
    ] = None
    generation_config: Annotated[
        _Defaults,
        Setting(
            "Sampling parameters that a line leaves out: auto, as generation_config.json of the "
            "model says; none or vllm, the API's own defaults."
        ),
    ] = "auto"
    tool_call_parser: Annotated[
        _Tools, Setting("How the model calls tools. auto: found in its chat template.")
    ] = "auto"
    reasoning_parser: Annotated[
        _Reasoning,
        Setting(
            "How the model marks its reasoning, which answers have apart. auto: found in its chat "
            "template; none: it stays in the text."
        ),
    ] = "auto"

    reranker: Annotated[
        Reranker,
        Setting(
            "How a model with logits scores pairs of texts. auto: as its config.json and its name "
            "say; qwen3: by yes and no, asked as Qwen3-Reranker is; none: by its embeddings."
        ),
    ] = "auto"

    def __post_init__(self) -> None:
        check_settings(self, UsageError)

    @property
    def takes_defaults(self) -> bool:
        """Whether the model says how tokens are sampled where a line does not."""
        return self.generation_config == "auto"

    def changes(self) -> dict[str, str | bool]:
        """What is not as it is by default: answers depend on it."""
        every = list_settings(LineRules)
        changed = [one.name for one in every if getattr(self, one.name) != one.default]
        return {name: getattr(self, name) for name in changed}
