"""How the next token is chosen; names and meanings as in vLLM's offline API."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["MAX_LOGPROBS", "SamplingParams"]

_WHOLE = (int, "a whole number")
_NUMBER = (float, "a number")
_KINDS = {
    **dict.fromkeys(("n", "top_k", "min_tokens", "seed", "max_tokens", "logprobs"), _WHOLE),
    **dict.fromkeys(("temperature", "top_p", "min_p", "repetition_penalty"), _NUMBER),
    **dict.fromkeys(("frequency_penalty", "presence_penalty"), _NUMBER),
    "stop": (str, "a string or strings"),
    "stop_token_ids": (int, "token ids"),
    "logit_bias": (int, "token ids with biases"),
}
_LISTS = ("stop", "stop_token_ids", "logit_bias")
_OPTIONAL = ("seed", "max_tokens", "logprobs")


def _is_kind(value: object, kind: type) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int | float if kind is float else kind)


MAX_LOGPROBS = 20
#: Colder than this, division by the temperature overflows; vLLM draws the line here too.
_GREEDY_BELOW = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Frozen and checked at once: a bad value raises ValueError that names the field and the range.

    ``temperature`` 0 is greedy. ``seed`` -1 is none, as in vLLM. ``top_k`` 0 or -1 keeps all
    tokens. ``max_tokens`` None means as many as the model's length allows. ``logprobs`` is how many
    alternatives to report for each token; 0 reports the chosen one only, None reports nothing.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        # Spelled as in vLLM and OpenAI: a lone string is a list of one, None a list of none.
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        for name, empty in (("stop", ()), ("stop_token_ids", ()), ("logit_bias", {})):
            if getattr(self, name) is None:
                object.__setattr__(self, name, empty)
        self._check_kinds()
        if self.seed == -1:
            object.__setattr__(self, "seed", None)
        for name, holds, rule in self._rules():
            if not holds:
                raise ValueError(f"{name} must be {rule}, not {getattr(self, name)!r}")

    def _check_kinds(self) -> None:
        for name, (kind, words) in _KINDS.items():
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            values = value if name in _LISTS else [value]
            if not all(_is_kind(each, kind) for each in values):
                raise ValueError(f"{name} must be {words}, not {value!r}")

    def _rules(self) -> list[tuple[str, bool, str]]:
        return [
            ("n", 1 <= self.n <= 128, "from 1 to 128"),
            ("temperature", 0 <= self.temperature < float("inf"), "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("top_k", self.top_k >= -1, "-1, 0 or a count"),
            ("min_p", 0 <= self.min_p <= 1, "from 0 to 1"),
            ("seed", self.seed is None or -(2**63) <= self.seed < 2**63, "a 64-bit integer"),
            ("stop", all(self.stop), "strings that are not empty"),
            ("stop_token_ids", all(t >= 0 for t in self.stop_token_ids), "token ids from 0"),
            ("max_tokens", self.max_tokens is None or self.max_tokens >= 1, "1 or more"),
            (
                "min_tokens",
                0 <= self.min_tokens <= (self.max_tokens or self.min_tokens),
                "from 0 to max_tokens",
            ),
            (
                "logprobs",
                self.logprobs is None or 0 <= self.logprobs <= MAX_LOGPROBS,
                f"from 0 to {MAX_LOGPROBS}",
            ),
            (
                "logit_bias",
                all(t >= 0 and -100 <= bias <= 100 for t, bias in self.logit_bias.items()),
                "token ids with biases from -100 to 100",
            ),
            ("frequency_penalty", -2 <= self.frequency_penalty <= 2, "from -2 to 2"),
            ("presence_penalty", -2 <= self.presence_penalty <= 2, "from -2 to 2"),
            (
                "repetition_penalty",
                0 < self.repetition_penalty < float("inf"),
                "above 0",
            ),
        ]

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken."""
        return self.temperature < _GREEDY_BELOW

    @property
    def shapes_logits(self) -> bool:
        """Whether logits change before the choice, so that the plain argmax would be wrong."""
        return (
            bool(self.logit_bias)
            or self.frequency_penalty != 0
            or self.presence_penalty != 0
            or self.repetition_penalty != 1
            or self.min_tokens > 0
        )
