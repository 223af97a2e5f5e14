"""A runner's half of the talk with the driver: one JSON object a line, on stdin and stdout.

The driver sends ``{"work": name, "salt": text}``; the runner answers ``{"seconds", "generated",
"first"}``: the time its engine took, how many tokens came out, and the first token of each answer.
Its first line, once the model is loaded, has ``versions``. When stdin ends, it ends.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

from work import Work, token_bytes

__all__ = ["Generate", "Settings", "serve"]

#: Greedy answers to prompts, of exactly so many new tokens.
Generate = Callable[[list[list[int]], int], list[list[int]]]


@dataclass(frozen=True, slots=True)
class Settings:
    """What every engine is given alike."""

    model: str
    threads: int
    kv_tokens: int
    longest: int
    batch_size: int
    batch_tokens: int
    tier2: str | None

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values of ``kv_tokens`` tokens, in 16 bits."""
        return self.kv_tokens * token_bytes(Path(self.model))


def serve(load: Callable[[Settings], Generate], *packages: str) -> None:
    """Load an engine and answer the driver with it. ``packages`` are those whose versions count."""
    settings = _settings()
    driver = _claim_stdout()
    generate = load(settings)
    _say(driver, versions={package: version(package) for package in packages})
    for line in sys.stdin:
        asked = json.loads(line)
        _say(driver, **_measure(generate, Work.parse(asked["work"]), asked["salt"]))


def _measure(generate: Generate, work: Work, salt: str) -> dict[str, Any]:
    prompts = work.prompts(salt)
    begun = time.perf_counter()
    answers = generate(prompts, work.new)
    seconds = time.perf_counter() - begun
    generated = sum(map(len, answers))
    return {"seconds": seconds, "generated": generated, "first": [one[0] for one in answers]}


def _settings() -> Settings:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--tier2")
    for name in ("threads", "kv-tokens", "longest", "batch-size", "batch-tokens"):
        parser.add_argument(f"--{name}", type=int, required=True)
    return Settings(**vars(parser.parse_args()))


def _claim_stdout() -> TextIO:
    """The driver's line; whatever the engine prints goes to stderr instead."""
    driver = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return driver


def _say(driver: TextIO, **message: Any) -> None:
    driver.write(json.dumps(message) + "\n")
    driver.flush()
