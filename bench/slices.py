"""How alike the slices of a pipeline are: CPU time of each one's dense step, head and all."""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from glinthawk.bench.random_models import write_shape
from glinthawk.core.config import EngineConfig
from glinthawk.core.slices import LayerSlice, balance_layers, split_layers
from glinthawk.tier1.forward.dense_pass import DensePass
from glinthawk.tier1.model.loader import LoadedModel, load_model
from glinthawk.tier1.model.parameter_count import read_shape

__all__ = ["SlicesRow", "run"]

_Write = Callable[[str], None]
_ROWS = 64


@dataclass(frozen=True, slots=True)
class SlicesRow:
    """Slices of so many layers each, and how long a step of each takes one thread."""

    model: str
    shared: str
    layers: tuple[int, ...]
    cpu_ms: tuple[float, ...]
    slowest_over_mean: float


@torch.inference_mode()
def run(write: _Write, *, num_slices: int = 4, quick: bool = False) -> None:
    """Measure, and write lines as they come; the last one is a JSON object."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [
            row
            for model in (("S",) if quick else ("S", "L"))
            for row in _measure(model, num_slices, 3 if quick else 9, write)
        ]
    finally:
        torch.set_num_threads(before)
    write(json.dumps({"rows": [asdict(row) for row in rows], "step_rows": _ROWS}))


def _measure(model: str, num_slices: int, rounds: int, write: _Write) -> list[SlicesRow]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = str(write_shape(Path(folder), model))
        shape = read_shape(path)
        splits = {
            "equally": split_layers(len(shape.layers), num_slices),
            "by weights": balance_layers(shape.layer_work, shape.head_work, [1.0] * num_slices),
        }
        for shared, parts in splits.items():
            times = _step_ms(path, parts, rounds)
            layers = tuple(len(part) for part in parts)
            over = round(max(times) / statistics.mean(times), 3)
            rows.append(SlicesRow(model, shared, layers, times, over))
            write(f"{model}  {shared:10}  layers {layers}  ms {times}  slowest over mean {over}")
    return rows


def _step_ms(path: str, parts: Sequence[LayerSlice], rounds: int) -> tuple[float, ...]:
    """Of each slice, the median of rounds in which all take turns."""
    config = EngineConfig(model=path, load_format="dummy", device="cpu")
    steps = [_dense_step(load_model(config, part)) for part in parts]
    times: list[list[float]] = [[] for _ in steps]
    for round_number in range(rounds + 1):
        for step, own in zip(steps, times, strict=True):
            begun = time.process_time()
            step()
            if round_number:
                own.append(time.process_time() - begun)
    return tuple(round(1e3 * statistics.median(own), 2) for own in times)


def _dense_step(loaded: LoadedModel) -> DensePass:
    receives = not loaded.part.is_first
    return DensePass(loaded.model, loaded.spec.layers, _ROWS, receives=receives)
