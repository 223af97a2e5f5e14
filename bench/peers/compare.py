"""Generated tokens per second of glinthawk and its peers: same weights, same token ids, in turn.

    python bench/peers/compare.py [--work NAME ...] [--engine NAME ...] [--rounds N]

Every round gives each engine the same new prompts; a figure is the median of the rounds. Engines
stay loaded while the others work, as far as memory allows. The last line is one JSON object.
"""

import argparse
import json
import os
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines import ENGINES, EngineFailed, Limits, Running
from models import model_folder
from work import FULL, Work

_GIB = 1 << 30
_SHOWN_WORDS = 100


@dataclass(slots=True)
class Result:
    """What an engine made of some work: an answer for each round, or why there is none."""

    work: Work
    engine: str
    speeds: list[float] = field(default_factory=list)
    first_tokens: list[list[int]] = field(default_factory=list)
    error: str | None = None

    def add(self, answer: dict[str, Any]) -> None:
        self.speeds.append(answer["generated"] / answer["seconds"])
        self.first_tokens.append(answer["first"])

    @property
    def tokens_per_s(self) -> float | None:
        return round(statistics.median(self.speeds), 1) if self.speeds else None

    def agreement(self, other: "Result") -> float | None:
        """Share of the requests whose first token is the other's: says that both run one model."""
        rounds = zip(self.first_tokens, other.first_tokens, strict=False)
        pairs = [pair for mine, theirs in rounds for pair in zip(mine, theirs, strict=True)]
        return round(sum(a == b for a, b in pairs) / len(pairs), 3) if pairs else None

    def row(self, base: "Result") -> dict[str, Any]:
        return {
            "work": str(self.work),
            "engine": self.engine,
            "tokens_per_s": self.tokens_per_s,
            "rounds": [round(speed, 1) for speed in self.speeds],
            "same_first_tokens": self.agreement(base),
            "error": self.error,
        }


class Stable:
    """Loaded engines of one model; the one that has rested longest goes when memory is short."""

    def __init__(self, model: str, limits: Limits, memory_bytes: int) -> None:
        self._model, self._limits = model, limits
        self._room = max(1, memory_bytes // _engine_bytes(model, limits))
        self._engines: dict[str, Running] = {}
        self.versions: dict[str, dict[str, str]] = {}

    def __enter__(self) -> "Stable":
        return self

    def __exit__(self, *_: object) -> None:
        while self._engines:
            self.drop(next(iter(self._engines)))

    def get(self, name: str) -> Running:
        """The engine, started if need be. Raises EngineFailed."""
        engine = self._engines.pop(name, None)
        if engine is None:
            while len(self._engines) >= self._room:
                self.drop(next(iter(self._engines)))
            engine = Running(name, self._model, self._limits)
        self._engines[name] = engine
        if not engine.started:
            engine.start()
            self.versions[name] = engine.versions
        return engine

    def drop(self, name: str) -> None:
        """End the engine."""
        self._engines.pop(name).stop()


def main() -> int:
    options = _options()
    versions: dict[str, dict[str, str]] = {}
    rows: list[dict[str, Any]] = []
    for model in dict.fromkeys(work.model for work in options.work):
        works = [work for work in options.work if work.model == model]
        with Stable(model, _limits(options, works), _memory_bytes()) as stable:
            rows += _compare(works, options.engine, options.rounds, stable)
        versions |= stable.versions
    _table(rows)
    _write(json.dumps({"rows": rows, "versions": versions}))
    return 1 if any(row["error"] for row in rows) else 0


def _compare(
    works: list[Work], engines: list[str], rounds: int, stable: Stable
) -> list[dict[str, Any]]:
    results = {(work, engine): Result(work, engine) for work in works for engine in engines}
    for number in range(rounds):
        # Another engine begins each round, so that none is always the one after a certain other.
        begins = number % len(engines)
        for work in works:
            for engine in engines[begins:] + engines[:begins]:
                result = results[work, engine]
                if result.error is None:
                    _take_turn(result, f"round {number}", stable)
    return [result.row(results[work, engines[0]]) for (work, _), result in results.items()]


def _take_turn(result: Result, salt: str, stable: Stable) -> None:
    name = f"{result.work}  {result.engine:18} {salt}: "
    try:
        result.add(stable.get(result.engine).answer(result.work, salt))
        _write(f"{name}{result.speeds[-1]:.1f} tokens/s")
    except EngineFailed as failure:
        result.error = str(failure)
        stable.drop(result.engine)
        _write(f"{name}failed: {failure}")


def _limits(options: argparse.Namespace, works: list[Work]) -> Limits:
    """Memory for the keys and values of all requests of any of the works at once."""
    cpus = sorted(os.sched_getaffinity(0))[: options.threads]
    return Limits(
        cpus=tuple(cpus),
        kv_tokens=max(work.kv_tokens for work in works),
        longest=max(work.longest for work in works),
        batch_size=options.batch_size,
        batch_tokens=options.batch_tokens,
        turn_s=options.limit,
    )


def _engine_bytes(model: str, limits: Limits) -> int:
    """Memory that an engine may take: the weights twice, since some keep a copy in an order of
    their own, keys and values, and a GiB for all else."""
    weights = sum(path.stat().st_size for path in model_folder(model).glob("*.safetensors"))
    return 2 * weights + limits.kv_bytes(model) + _GIB


def _memory_bytes() -> int:
    """Memory that is available now."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    sizes = {name: size for name, size, *_ in map(str.split, lines)}
    return 1024 * int(sizes["MemAvailable:"])


def _table(rows: list[dict[str, Any]]) -> None:
    _write(
        f"\n{'work':20} {'engine':18} {'tokens/s':>9}  {'lowest':>8} {'highest':>8}  first tokens"
    )
    for row in rows:
        name = f"{row['work']:20} {row['engine']:18}"
        if row["rounds"]:
            low, high = min(row["rounds"]), max(row["rounds"])
            name += f" {row['tokens_per_s']:9.1f}  {low:8.1f} {high:8.1f}"
            if row["same_first_tokens"] is not None:
                name += f"  {100 * row['same_first_tokens']:.0f} % the same"
        if row["error"]:
            name += f" failed: {row['error'][-_SHOWN_WORDS:]}"
        _write(name)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", nargs="+", type=Work.parse, default=[*map(Work.parse, FULL)])
    parser.add_argument("--engine", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=256, help="most sequences of a step")
    parser.add_argument("--batch-tokens", type=int, default=2048, help="most tokens of a step")
    parser.add_argument("--limit", type=float, default=1800, help="seconds that a turn may take")
    return parser.parse_args()


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
