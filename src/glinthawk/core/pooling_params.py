"""What is made of prompts whose embeddings or scores are asked for; as in vLLM's offline API."""

from dataclasses import dataclass
from typing import Annotated

from glinthawk.core.setting import Setting, check_settings, describe_settings

__all__ = ["PoolingParams"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolingParams:
    """Frozen, and checked at once: ValueError names a field, what it takes, what it got."""

    dimensions: Annotated[
        int | None, Setting("Numbers of an embedding that are kept; None: all.", least=1)
    ] = None
    use_activation: Annotated[
        bool | None,
        Setting("Embeddings of length 1, scores from 0 to 1; None: as the model says."),
    ] = None
    truncate_prompt_tokens: Annotated[
        int | None,
        Setting("Tokens of a prompt that are kept; -1: as many as the model takes.", least=-1),
    ] = None

    def __post_init__(self) -> None:
        check_settings(self, ValueError)
        if self.truncate_prompt_tokens == 0:
            raise ValueError("truncate_prompt_tokens must be -1, or 1 or more, not 0")


# help(PoolingParams) says what stands at the fields.
PoolingParams.__doc__ = f"{PoolingParams.__doc__}\n\n{describe_settings(PoolingParams)}"
