"""What is measured: work named so that its name says all, and the token ids that belong to it.

Plain Python, because every engine's own environment imports it.
"""

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FULL", "Work", "token_bytes"]

#: The work of a full run.
FULL = (
    "M-64x128+128",
    "M-256x128+128",
    "M-16x2048+32",
    "L-64x128+64",
    "L-256x1024:64+64",
)

#: Tokens of a page of transformers, which are more than anyone else's.
_LARGEST_PAGE = 256

_NAME = re.compile(r"(\w+)-(\d+)x(?:(\d+):)?(\d+)\+(\d+)")

#: Token ids stay below this, so they are in every model's vocabulary.
_HIGHEST_TOKEN = 256


@dataclass(frozen=True, slots=True)
class Work:
    """Prompts for a model. ``L-256x1024:64+64`` is model L and 256 requests, each of a prefix of
    1024 tokens that all share, 64 tokens of its own and 64 new tokens; ``M-64x128+128`` shares
    nothing."""

    model: str
    requests: int
    shared: int
    own: int
    new: int

    @classmethod
    def parse(cls, name: str) -> "Work":
        found = _NAME.fullmatch(name)
        if not found:
            raise ValueError(f"work is written MODEL-REQUESTSxPROMPT+NEW, not {name!r}")
        model, *counts = found.groups(default="0")
        return cls(model, *map(int, counts))

    def __str__(self) -> str:
        shared = f"{self.shared}:" if self.shared else ""
        return f"{self.model}-{self.requests}x{shared}{self.own}+{self.new}"

    @property
    def longest(self) -> int:
        """Tokens of a request at its end."""
        return self.shared + self.own + self.new

    @property
    def kv_tokens(self) -> int:
        """Room for all requests at their ends, the shared tokens once, in pages of any engine."""
        return self.shared + self.requests * (self.own + self.new + _LARGEST_PAGE)

    @property
    def new_tokens(self) -> int:
        """Tokens that all requests together generate."""
        return self.requests * self.new

    def prompts(self, salt: str) -> list[list[int]]:
        """The same token ids for the same ``salt``; other ones for another, so that no engine finds
        a prompt of an earlier round in its cache."""
        source = random.Random(f"{self}/{salt}")
        prefix = _tokens(source, self.shared)
        return [prefix + _tokens(source, self.own) for _ in range(self.requests)]

    def taste(self) -> "Work":
        """A few short answers of the same kind, to warm an engine up."""
        return Work(self.model, min(self.requests, 4), self.shared, self.own, min(self.new, 4))


def _tokens(source: random.Random, count: int) -> list[int]:
    return [source.randrange(_HIGHEST_TOKEN) for _ in range(count)]


def token_bytes(model: Path) -> int:
    """Bytes of the keys and values of a token in all layers, in 16 bits."""
    config = json.loads((model / "config.json").read_text())
    head_bytes = 2 * 2 * config["head_dim"]
    return head_bytes * config["num_key_value_heads"] * config["num_hidden_layers"]
