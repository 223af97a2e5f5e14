"""What is asked of a plan: how long prompts and answers are."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from glinthawk.core.errors import UsageError
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request

__all__ = ["Workload"]

#: Mean lengths of ShareGPT conversations (PagedAttention, arXiv 2309.06180, figure 11). That they
#: are log-normal, and how wide, is a guess; so is that they do not depend on one another.
_SHAREGPT_MEANS = 161.31, 337.99
_SHAREGPT_SIGMAS = 1.3, 0.9
_SHAREGPT_LONGEST = 2048
_DRAWS = 4096


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    input: int
    output: int


@dataclass(frozen=True, slots=True)
class Workload:
    """Pairs of prompt tokens and answer tokens, all equally frequent."""

    name: str
    lengths: tuple[tuple[int, int], ...]
    mean_input: float = field(init=False)
    mean_output: float = field(init=False)
    #: Root of the mean square: attention inside a prompt costs its square.
    rms_input: float = field(init=False)
    #: Keys that a decode row meets, on average over rows.
    mean_context: float = field(init=False)
    #: KV tokens of a living sequence, on average over steps.
    mean_held: float = field(init=False)

    def __post_init__(self) -> None:
        if not self.lengths or min(min(pair) for pair in self.lengths) < 1:
            raise UsageError(f"workload {self.name}: prompts and answers have at least a token")
        count = len(self.lengths)
        outputs = sum(output for _, output in self.lengths)
        numbers = {
            "mean_input": sum(given for given, _ in self.lengths) / count,
            "mean_output": outputs / count,
            "rms_input": math.sqrt(sum(given**2 for given, _ in self.lengths) / count),
            "mean_held": sum(_held(*pair) for pair in self.lengths) / outputs,
            "mean_context": self._mean_context(),
        }
        for name, value in numbers.items():
            object.__setattr__(self, name, value)

    def _mean_context(self) -> float:
        """A prompt's step answers the first token; decode step j of the rest meets prompt + j keys.

        >>> # prompt of 10, answer of 3: rows that meet 11 and 12 keys, 11.5 on average
        """
        rows = sum(output - 1 for _, output in self.lengths)
        if not rows:
            return 0.0
        keys = sum((output - 1) * (given + output / 2) for given, output in self.lengths)
        return keys / rows

    @classmethod
    def fixed(cls, given: int, output: int) -> "Workload":
        """All alike."""
        return cls(f"{given}:{output}", ((given, output),))

    @classmethod
    def sharegpt(cls) -> "Workload":
        """Chat: log-normal lengths, together at most 2048; the same at every call."""
        rng = random.Random(0)
        pairs: list[tuple[int, int]] = []
        while len(pairs) < _DRAWS:
            given, output = (
                math.ceil(rng.lognormvariate(math.log(mean) - sigma**2 / 2, sigma))
                for mean, sigma in zip(_SHAREGPT_MEANS, _SHAREGPT_SIGMAS, strict=True)
            )
            if given + output <= _SHAREGPT_LONGEST:
                pairs.append((given, output))
        return cls("sharegpt", tuple(pairs))

    @classmethod
    def load(cls, path: Path) -> "Workload":
        """From lines ``{"input": 512, "output": 256}``. Raises UsageError naming the line."""
        try:
            lines = [line for line in path.read_bytes().splitlines() if line.strip()]
        except OSError as error:
            raise UsageError(f"cannot read the workload {path}: {error.strerror}") from error
        pairs = []
        for number, line in enumerate(lines, start=1):
            try:
                one = msgspec.json.decode(line, type=_Line)
            except msgspec.DecodeError as error:
                raise UsageError(
                    f'{path}, line {number}: {error}; lines are {{"input": 512, "output": 256}}'
                ) from error
            pairs.append((one.input, one.output))
        return cls(path.name, tuple(pairs))

    @classmethod
    def parse(cls, text: str) -> "Workload":
        """``512:256`` (prompt and answer tokens), ``sharegpt``, or a file for ``load``."""
        if text == "sharegpt":
            return cls.sharegpt()
        given, colon, output = text.partition(":")
        if colon and given.isdecimal() and output.isdecimal():
            return cls.fixed(int(given), int(output))
        if Path(text).is_file():
            return cls.load(Path(text))
        raise UsageError(
            f"{text!r} is no workload: give 512:256 (prompt and answer tokens), sharegpt, or a "
            'file of lines {"input": 512, "output": 256}'
        )

    @property
    def mean_length(self) -> float:
        """Of a whole sequence."""
        return self.mean_input + self.mean_output

    def requests(self, count: int, seed: int = 0) -> Iterator[Request]:
        """As often each length as any other, in random order; prompts have no token in common."""
        rng = random.Random(seed)
        order: list[tuple[int, int]] = []
        for number in range(count):
            if not order:
                order = rng.sample(self.lengths, len(self.lengths))
            given, output = order.pop()
            params = SamplingParams(temperature=0.0, max_tokens=output, ignore_eos=True)
            yield Request(number, (number,) * given, params, seed=number, max_tokens=output)


def _held(given: int, output: int) -> float:
    """KV tokens summed over a sequence's steps: prompt, prompt + 1, ..."""
    return output * (given + (output - 1) / 2)
