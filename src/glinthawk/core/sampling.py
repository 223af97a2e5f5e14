"""How the next token is chosen; names and meanings as in vLLM's offline API."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

from glinthawk.core.setting import Setting, check_settings, describe_settings
from glinthawk.core.structured_outputs import StructuredOutputsParams
from glinthawk.core.vllm_params import VllmParams, check_vllm_params

__all__ = ["MAX_LOGPROBS", "SamplingParams"]

MAX_LOGPROBS = 20
#: Colder than this, division by the temperature overflows; vLLM draws the line here too.
_GREEDY_BELOW = 1e-5
_TEXTS = "strings, none empty"
#: None means none of them.
_EMPTY: dict[str, object] = {"stop": (), "stop_token_ids": (), "bad_words": (), "logit_bias": {}}


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams(VllmParams):
    """Frozen, and checked at once: ValueError names a field, what it takes, what it got."""

    n: Annotated[int, Setting("Answers to a prompt.", least=1, most=128)] = 1
    temperature: Annotated[float, Setting("0 is greedy.", least=0, below=math.inf)] = 1.0
    top_p: Annotated[
        float, Setting("Keep the likeliest tokens of this probability.", above=0, most=1)
    ] = 1.0
    top_k: Annotated[int, Setting("Keep so many tokens; 0 or -1: all.", least=-1)] = 0
    min_p: Annotated[
        float,
        Setting("Keep tokens of this share of the likeliest one's probability.", least=0, most=1),
    ] = 0.0
    seed: Annotated[
        int | None, Setting("Of random numbers; -1: none.", least=-(2**63), most=2**63 - 1)
    ] = None
    stop: Annotated[Sequence[str], Setting("A string or strings that end the answer.")] = ()
    stop_token_ids: Annotated[Sequence[int], Setting("Tokens that end the answer.")] = ()
    ignore_eos: Annotated[bool, Setting("Go on after an end-of-sequence token.")] = False
    max_tokens: Annotated[
        int | None,
        Setting("Most tokens; 0: none; None: as many as the model's length allows.", least=0),
    ] = 16
    min_tokens: Annotated[int, Setting("Fewest tokens, at most `max_tokens`.", least=0)] = 0
    logprobs: Annotated[
        int | None,
        Setting(
            "Alternatives to report for each token; 0: the chosen one only; None: nothing.",
            least=0,
            most=MAX_LOGPROBS,
        ),
    ] = None
    prompt_logprobs: Annotated[
        int | None,
        Setting(
            "Alternatives to report for each token of the prompt; 0: itself only; None: nothing.",
            least=0,
            most=MAX_LOGPROBS,
        ),
    ] = None
    logit_bias: Annotated[
        Mapping[int, float], Setting("Added to tokens' logits, from -100 to 100.")
    ] = field(default_factory=dict)
    frequency_penalty: Annotated[
        float, Setting("Taken from a logit each time the token was chosen.", least=-2, most=2)
    ] = 0.0
    presence_penalty: Annotated[
        float, Setting("Taken from a logit once the token was chosen.", least=-2, most=2)
    ] = 0.0
    repetition_penalty: Annotated[
        float,
        Setting(
            "Divides logits of tokens that were there; where they are negative, multiplies.",
            above=0,
            below=math.inf,
        ),
    ] = 1.0
    structured_outputs: Annotated[
        StructuredOutputsParams | None, Setting("What the answer must look like.")
    ] = None
    allowed_token_ids: Annotated[
        Sequence[int] | None, Setting("The only tokens that are chosen; None: any.")
    ] = None
    bad_words: Annotated[Sequence[str], Setting("Texts whose tokens no answer has.")] = ()
    truncate_prompt_tokens: Annotated[
        int | None,
        Setting(
            "Tokens of the prompt's end that are kept; -1: as many as leave room for the answer.",
            least=-1,
        ),
    ] = None
    include_stop_str_in_output: Annotated[
        bool, Setting("Keep what ended the answer in its text.")
    ] = False
    skip_special_tokens: Annotated[bool, Setting("Leave special tokens out of the text.")] = True

    def __post_init__(self) -> None:
        # Spelled as in vLLM and OpenAI: a lone string is a list of one, None a list of none.
        for name in ("stop", "bad_words"):
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, (getattr(self, name),))
        for name, empty in _EMPTY.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, empty)
        for name in ("stop", "stop_token_ids", "bad_words", "allowed_token_ids"):
            object.__setattr__(self, name, _as_list(name, getattr(self, name)))
        check_settings(self, ValueError)
        check_vllm_params(self, self.n, bool(self.stop))
        if self.seed == -1:
            object.__setattr__(self, "seed", None)
        for name, holds, rule in self._rules():
            if not holds:
                raise ValueError(f"{name} must be {rule}, not {getattr(self, name)!r}")

    def _rules(self) -> list[tuple[str, bool, str]]:
        biases = self.logit_bias.items()
        return [
            ("stop", all(isinstance(s, str) and s for s in self.stop), _TEXTS),
            ("stop_token_ids", all(map(_is_token, self.stop_token_ids)), "token ids from 0"),
            ("bad_words", all(isinstance(s, str) and s for s in self.bad_words), _TEXTS),
            ("allowed_token_ids", self._may_choose, "token ids from 0, without structured_outputs"),
            ("truncate_prompt_tokens", self.truncate_prompt_tokens != 0, "-1, or 1 or more"),
            (
                "min_tokens",
                self.max_tokens is None or self.min_tokens <= self.max_tokens,
                "from 0 to max_tokens",
            ),
            (
                "logit_bias",
                all(_is_token(token) and -100 <= bias <= 100 for token, bias in biases),
                "token ids with biases from -100 to 100",
            ),
            (
                "structured_outputs",
                isinstance(self.structured_outputs, StructuredOutputsParams | None),
                "a StructuredOutputsParams",
            ),
        ]

    def of_choice(self, index: int) -> "SamplingParams":
        """For one of ``n`` answers: the prompt of all of them is scored with the first."""
        is_scored = index > 0 and self.prompt_logprobs is not None
        return replace(self, prompt_logprobs=None) if is_scored else self

    @property
    def _may_choose(self) -> bool:
        ids = self.allowed_token_ids
        if ids is None:
            return True
        return self.structured_outputs is None and bool(ids) and all(map(_is_token, ids))

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken."""
        return self.temperature < _GREEDY_BELOW

    @property
    def looks_back(self) -> bool:
        """Whether logits change by the tokens that the answer has."""
        return (
            self.frequency_penalty != 0
            or self.presence_penalty != 0
            or self.repetition_penalty != 1
            or bool(self.bad_words)
        )

    @property
    def shapes_logits(self) -> bool:
        """Whether logits change before the choice, so that the plain argmax would be wrong."""
        return (
            self.looks_back
            or bool(self.logit_bias)
            or self.min_tokens > 0
            or self.allowed_token_ids is not None
        )


def _as_list(name: str, value: object) -> object:
    """A set, an array or whatever else can be walked, as a tuple."""
    if value is None or isinstance(value, list | tuple):
        return value
    if not isinstance(value, Iterable):
        raise ValueError(f"{name} must be a list, not {value!r}")
    return tuple(value)


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


# help(SamplingParams) says what stands at the fields.
SamplingParams.__doc__ = f"{SamplingParams.__doc__}\n\n{describe_settings(SamplingParams)}"
