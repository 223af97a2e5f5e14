"""Steps of rows with several LoRA adapters against steps without any, alternating.

A step is all that has weights: attention costs nothing here, so a whole run loses less. The rows of
a step have all adapters in turn. Weights are random, those of adapters too.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from glinthawk.bench.random_models import load_shape, write_shape
from glinthawk.core.config import EngineConfig
from glinthawk.tier1.forward.cut import Pass
from glinthawk.tier1.forward.dense_pass import DensePass
from glinthawk.tier1.model.loader import LoadedModel, load_model

__all__ = ["AdapterPlan", "AdapterRow", "run"]

_Write = Callable[[str], None]
_TARGETS = {
    "q, v": ("q_proj", "v_proj"),
    "all": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}


@dataclass(frozen=True, slots=True)
class AdapterPlan:
    """Medians of ``rounds``."""

    shape: str = "L"
    adapters: int = 8
    rank: int = 16
    batches: tuple[int, ...] = (8, 64, 512)
    rounds: int = 7

    @classmethod
    def quick(cls) -> "AdapterPlan":
        """A look in a minute."""
        return cls(shape="S", batches=(64,), rounds=5)


@dataclass(frozen=True, slots=True)
class AdapterRow:
    """Seconds of a step, by the clock and of all cores together, without adapters and with them."""

    targets: str
    batch: int
    plain_s: float
    adapted_s: float
    plain_cpu_s: float
    adapted_cpu_s: float
    #: Speed with adapters over that without, round by round.
    speed: float
    cpu_speed: float


def run(write: _Write, *, quick: bool = False, plan: AdapterPlan | None = None) -> list[AdapterRow]:
    """Measure, write a line for each, then one of JSON."""
    plan = plan or (AdapterPlan.quick() if quick else AdapterPlan())
    load = os.getloadavg()[0]
    write(f"shape {plan.shape}, {plan.adapters} adapters of rank {plan.rank}, load {load:.1f}")
    plain = load_shape(plan.shape)
    rows = []
    for name in _TARGETS:
        for row in _measure_targets(plan, name, plain):
            write(_line(row))
            rows.append(row)
    summary = {"bench": "lora", "load": load, "plan": asdict(plan)}
    write(json.dumps({**summary, "rows": list(map(asdict, rows))}))
    return rows


def _measure_targets(plan: AdapterPlan, name: str, plain: LoadedModel) -> Iterator[AdapterRow]:
    """Its model is in memory no longer than that takes."""
    adapted = _load_adapted(plan, plain, _TARGETS[name])
    for batch in plan.batches:
        yield _measure(plan, name, batch, plain, adapted)


def _load_adapted(plan: AdapterPlan, plain: LoadedModel, targets: tuple[str, ...]) -> LoadedModel:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lora = tuple(_write_adapters(folder, plan, plain, targets))
        path = str(write_shape(folder, plan.shape))
        return load_model(EngineConfig(model=path, load_format="dummy", lora=lora, device="cpu"))


def _write_adapters(
    folder: Path, plan: AdapterPlan, plain: LoadedModel, targets: tuple[str, ...]
) -> Iterator[str]:
    settings = {"peft_type": "LORA", "r": plan.rank, "lora_alpha": plan.rank}
    for number in range(plan.adapters):
        tensors = {}
        for name, layer in plain.model.named_modules():
            if name.rpartition(".")[2] in targets:
                place = f"base_model.model.{name}.lora_"
                sizes: tuple[int, int] = (layer.in_features, layer.out_features)
                tensors[f"{place}A.weight"] = torch.randn(plan.rank, sizes[0]).bfloat16() / 100
                tensors[f"{place}B.weight"] = torch.randn(sizes[1], plan.rank).bfloat16() / 100
        own = folder / str(number)
        own.mkdir()
        save_file(tensors, own / "adapter_model.safetensors")
        (own / "adapter_config.json").write_text(json.dumps(settings))
        yield f"{number}={own}"


def _measure(
    plan: AdapterPlan, targets: str, batch: int, plain: LoadedModel, adapted: LoadedModel
) -> AdapterRow:
    numbers = torch.arange(batch) % plan.adapters + 1
    passes = partial(Pass, adapted.model, adapters=numbers)
    steps = (
        DensePass(plain.model, plain.spec.layers, batch),
        DensePass(adapted.model, adapted.spec.layers, batch, passes),
    )
    taken: list[list[tuple[float, float]]] = [[], []]
    for number in range(plan.rounds + 1):
        for place, step in enumerate(steps):
            begun, cpu = time.perf_counter(), time.process_time()
            step()
            if number:  # the first round makes all warm
                taken[place].append((time.perf_counter() - begun, time.process_time() - cpu))
    medians = [[statistics.median(column) for column in zip(*one, strict=True)] for one in taken]
    ratios = [
        statistics.median(own[which] / other[which] for own, other in zip(*taken, strict=True))
        for which in (0, 1)
    ]
    (plain_s, plain_cpu_s), (adapted_s, adapted_cpu_s) = medians
    return AdapterRow(targets, batch, plain_s, adapted_s, plain_cpu_s, adapted_cpu_s, *ratios)


def _line(row: AdapterRow) -> str:
    return (
        f"adapters on {row.targets}, batch {row.batch}: {1e3 * row.plain_s:.0f} ms without, "
        f"{1e3 * row.adapted_s:.0f} ms with: {row.speed:.2f} of the speed "
        f"({row.cpu_speed:.2f} by CPU time)"
    )
