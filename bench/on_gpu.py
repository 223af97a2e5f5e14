"""A device's roofs, and what a dense step and whole jobs reach of them.

The model is Llama-3.1-8B with random weights, made on the device. On a CPU a smaller shape shows
that this runs; its figures mean nothing there.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from glinthawk.bench.random_models import load_shape, write_shape
from glinthawk.bench.timing import medians, seconds
from glinthawk.core.config import Device, EngineConfig
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.engine.node_opening import OpenNode, open_node
from glinthawk.engine.run import run_on
from glinthawk.tier1.forward.dense_pass import DensePass
from glinthawk.tier1.forward.graphs import GraphedPasses
from glinthawk.tier1.forward.recording import CudaRecorder

__all__ = ["PARTS", "GpuPlan", "run"]

_Write = Callable[[str], None]
_GIB = 1 << 30
_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class GpuPlan:
    """What is measured, and how large."""

    device: Device = "cuda"
    shape: str = "XL"
    rows: tuple[int, ...] = (1, 16, 64, 256, 512, 1024)
    requests: int = 512
    prompt: int = 512
    new: int = 96
    #: Sizes of the roofs' tensors: bytes that are copied, a side of the product.
    copied: int = _GIB
    side: int = 8192
    #: KV memory: plenty, little, and a worker's.
    plenty: str = "40GiB"
    little: str = "2GiB"
    far: str = "60GiB"

    @classmethod
    def on_cpu(cls) -> "GpuPlan":
        """Small enough to try everything in a minute."""
        return cls(
            device="cpu",
            shape="S",
            rows=(1, 16),
            requests=16,
            prompt=32,
            new=8,
            copied=1 << 26,
            side=512,
            plenty="64MiB",
            little="1MiB",
            far="64MiB",
        )


@dataclass(frozen=True, slots=True)
class Roofs:
    """Of the device: bytes a second read and written, FLOP/s of a product in bfloat16, bytes a
    second to and from the host."""

    copy: float
    product: float
    to_device: float
    to_host: float


def run(write: _Write, plan: GpuPlan, parts: tuple[str, ...]) -> None:
    """Measure ``parts``, and write lines as they come, a JSON object each."""
    roofs = _measure_roofs(plan)
    write(json.dumps({"device": _name(plan.device), "torch": torch.__version__, **asdict(roofs)}))
    for part in parts:
        for row in PARTS[part](plan, roofs):
            write(json.dumps({"part": part, **row}))


def _name(device: Device) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


def _waiting(plan: GpuPlan, call: Callable[[], object]) -> Callable[[], None]:
    """``call``, until the device is done."""

    def run_whole() -> None:
        call()
        if plan.device == "cuda":
            torch.cuda.synchronize()

    return run_whole


@torch.inference_mode()
def _measure_roofs(plan: GpuPlan) -> Roofs:
    here, there = (torch.zeros(plan.copied, dtype=torch.uint8, device=plan.device) for _ in "12")
    host = torch.zeros(plan.copied, dtype=torch.uint8, pin_memory=plan.device == "cuda")
    left = torch.randn(plan.side, plan.side, device=plan.device).bfloat16()
    calls = (
        lambda: there.copy_(here),
        lambda: left @ left,
        lambda: here.copy_(host, non_blocking=True),
        lambda: host.copy_(here, non_blocking=True),
    )
    copy, product, up, down = medians(_ROUNDS, *(_waiting(plan, call) for call in calls))
    return Roofs(
        2 * plan.copied / copy, 2 * plan.side**3 / product, plan.copied / up, plan.copied / down
    )


@torch.inference_mode()
def _dense(plan: GpuPlan, roofs: Roofs) -> Iterator[dict[str, Any]]:
    """Milliseconds of steps of all layers against the linear layers alone, and of those against
    the larger of what reading them and multiplying them take at the roofs."""
    loaded = load_shape(plan.shape, device=plan.device)
    plain = load_shape(plan.shape, dense="plain", device=plan.device)
    weights = _weights(loaded.model)
    graphs = None
    if plan.device == "cuda":
        graphs = GraphedPasses(loaded.model, CudaRecorder(loaded.model.device))
    for rows in plan.rows:
        inputs = {w.shape[1]: torch.randn(1, rows, w.shape[1]).to(w) for w in weights}
        ways: dict[str, Callable[[], object]] = {
            "linears": partial(_multiply, inputs, weights),
            "graphs": DensePass(loaded.model, loaded.spec.layers, rows, graphs),
            "fused": DensePass(loaded.model, loaded.spec.layers, rows),
            "plain": DensePass(plain.model, plain.spec.layers, rows),
        }
        times = medians(_ROUNDS, *(_waiting(plan, way) for way in ways.values()))
        found = dict(zip(ways, times, strict=True))
        size = sum(weight.numel() for weight in weights)
        roof = max(2 * size / roofs.copy, 2 * size * rows / roofs.product)
        yield {
            "rows": rows,
            **{name: round(1e3 * took, 3) for name, took in found.items()},
            "step_over_linears": round(found["graphs"] / found["linears"], 3),
            "linears_of_roof": round(roof / found["linears"], 3),
        }


def _multiply(inputs: dict[int, torch.Tensor], weights: list[torch.Tensor]) -> None:
    for weight in weights:
        F.linear(inputs[weight.shape[1]], weight)


def _weights(model: nn.Module) -> list[torch.Tensor]:
    """(out, in) of every product of a pass: a joined one stands once."""
    found: dict[int, torch.Tensor] = {}
    for module in model.modules():
        weight = getattr(module, "weight", None)
        is_product = isinstance(module, nn.Linear) or hasattr(module, "in_features")
        joined = getattr(getattr(module, "product", None), "weight", None)
        for tensor in (joined, weight if is_product and joined is None else None):
            if tensor is not None:
                found[tensor.data_ptr()] = tensor
    return list(found.values())


def _jobs(plan: GpuPlan, roofs: Roofs) -> Iterator[dict[str, Any]]:
    layouts: dict[str, tuple[int, dict[str, Any]]] = {
        "one tier, plenty of KV": (1, {"tier1_kv": plan.plenty}),
        "one tier, little KV": (4, {"tier1_kv": plan.little}),
        "two tiers": (1, {"tier2": ("local:1",), "worker_kv": plan.far}),
        "hybrid": (
            1,
            {"tier1_kv": plan.little, "tier2": ("local:1",), "worker_kv": plan.far},
        ),
    }
    for name, (part, settings) in layouts.items():
        yield {"layout": name, **_run_job(plan, roofs, plan.requests // part, settings)}


def _run_job(plan: GpuPlan, roofs: Roofs, count: int, settings: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        config = EngineConfig(
            model=str(write_shape(Path(folder), plan.shape)),
            load_format="dummy",
            device=plan.device,
            **settings,
        )
        with open_node(config) as opened:
            job = run_on(config, opened)
            list(job.engine.generate(_requests(plan, 8, seed=1)))  # code is warm
            took = seconds(lambda: list(job.engine.generate(_requests(plan, count, seed=2))))
            stats = job.stats()
            ideal = None if config.tier2 else _ideal_seconds(plan, roofs, opened, config, count)
    return {
        "requests": count,
        "seconds": round(took, 2),
        "generated_per_s": round(count * plan.new / took, 1),
        "of_roofs": round(ideal / took, 3) if ideal else None,
        "tier1_busy": round(stats.tier1_busy, 3),
        "tier2_busy": [round(busy, 3) for busy in stats.tier2_busy],
        "preemptions": stats.preemptions,
        "limits": asdict(job.engine.scheduler.limits),
    }


def _requests(plan: GpuPlan, count: int, seed: int) -> Iterator[Request]:
    generator = torch.Generator().manual_seed(seed)
    params = SamplingParams(temperature=0, max_tokens=plan.new, ignore_eos=True)
    for number in range(count):
        prompt = torch.randint(5, 4000, (plan.prompt,), generator=generator).tolist()
        yield Request(number, tuple(prompt), params, 0, plan.new)


def _ideal_seconds(
    plan: GpuPlan, roofs: Roofs, opened: OpenNode, config: EngineConfig, count: int
) -> float:
    """Prompts' products at the roof of products, and at the roof of memory, for every step of
    decode rows, the weights, and each row's KV."""
    spec = opened.loaded.spec
    size = sum(weight.numel() for weight in _weights(opened.loaded.model))
    kv = spec.kv_bytes_per_token(spec.dtype)
    living = min(count, config.tier1_kv_bytes // (kv * (plan.prompt + plan.new)))
    steps = plan.new * count / max(1, living)
    read = steps * 2 * size + count * plan.new * (plan.prompt + plan.new / 2) * kv
    return 2 * size * plan.prompt * count / roofs.product + read / roofs.copy


def _peer(plan: GpuPlan, roofs: Roofs) -> Iterator[dict[str, Any]]:
    """transformers' continuous batching with as much KV memory as one tier with little has."""
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        ContinuousBatchingConfig,
        GenerationConfig,
    )

    with tempfile.TemporaryDirectory() as folder:
        config = EngineConfig(
            model=str(write_shape(Path(folder), plan.shape)), tier1_kv=plan.little
        )
        settings = AutoConfig.from_pretrained(config.model)
    with torch.device(plan.device):
        model = AutoModelForCausalLM.from_config(
            settings, dtype=torch.bfloat16, attn_implementation="sdpa"
        )
    batching = ContinuousBatchingConfig(max_batch_tokens=2048)
    heads = 2 * settings.num_hidden_layers * settings.num_key_value_heads
    bytes_per_token = 2 * heads * (settings.hidden_size // settings.num_attention_heads)
    tokens = config.tier1_kv_bytes // bytes_per_token
    batching.num_blocks = max(8, tokens // batching.page_size)
    rules = GenerationConfig(max_new_tokens=plan.new, do_sample=False, eos_token_id=-1)
    count = max(8, plan.requests // 8)
    prompts = [list(request.prompt) for request in _requests(plan, count, seed=2)]
    took = seconds(
        lambda: model.generate_batch(
            prompts, generation_config=rules, continuous_batching_config=batching
        )
    )
    yield {
        "requests": count,
        "seconds": round(took, 2),
        "generated_per_s": round(count * plan.new / took, 1),
    }


PARTS: dict[str, Callable[[GpuPlan, Roofs], Iterator[dict[str, Any]]]] = {
    "dense": _dense,
    "jobs": _jobs,
    "peer": _peer,
}
