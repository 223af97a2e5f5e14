"""The most memory that loading takes, against the model as it lies in memory afterwards.

Pages of files that are mapped are the page cache's and do not count (``RssAnon`` of
/proc/PID/status, sampled); nor does what a process has before it loads anything.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file

__all__ = ["LoadRow", "run"]

_Write = Callable[[str], None]
_HIDDEN, _INNER, _HEADS, _VOCAB, _GROUP = 2048, 8192, 16, 1000, 128
#: Bits of a weight in memory.
_BITS = {"bfloat16": 16.0, "w4a16": 4 + 16 / _GROUP}
_SIZE, _QUICK = 2_000_000_000, 300_000_000
_SAMPLE_S = 0.005
_CHILD = """
import sys
from glinthawk.core.config import EngineConfig
from glinthawk.tier1.model.loader import load_model
print("begin", flush=True)
sys.stdin.readline()
load_model(EngineConfig(model=sys.argv[1]))
"""


@dataclass(frozen=True, slots=True)
class LoadRow:
    """Bytes: of all weights as they are kept, and the most that the process took beyond its
    start."""

    form: str
    weights: int
    peak: int
    ratio: float
    seconds: float


def run(write: _Write, folder: Path, *, quick: bool = False) -> None:
    """Measure in ``folder``; the last line that is written is a JSON object."""
    rows = []
    for form in _BITS:
        with TemporaryDirectory(dir=folder) as name:
            weights = _write_model(Path(name), form, _QUICK if quick else _SIZE)
            rows.append(_measure(form, name, weights))
        write("  ".join(f"{key} {value}" for key, value in asdict(rows[-1]).items()))
    write(json.dumps({"rows": [asdict(row) for row in rows]}))


def _measure(form: str, model: str, weights: int) -> LoadRow:
    pipe = subprocess.PIPE
    child = subprocess.Popen([sys.executable, "-c", _CHILD, model], stdin=pipe, stdout=pipe)
    assert child.stdin is not None and child.stdout is not None
    child.stdout.readline()
    base, peak, start = _anonymous(child.pid), 0, time.perf_counter()
    child.stdin.write(b"\n")
    child.stdin.close()
    while child.poll() is None:
        peak = max(peak, _anonymous(child.pid) - base)
        time.sleep(_SAMPLE_S)
    seconds = round(time.perf_counter() - start, 1)
    if child.returncode:
        raise RuntimeError(f"loading {form} ended with {child.returncode}")
    return LoadRow(form, weights, peak, round(peak / weights, 3), seconds)


def _anonymous(pid: int) -> int:
    """Bytes; 0 of a process that has just ended."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def _write_model(folder: Path, form: str, size: int) -> int:
    """Random weights in the shape of a llama; returns the bytes that they take in memory."""
    per_layer = sum(rows * columns for _, rows, columns in _matrices())
    num_layers = max(1, round(size / (per_layer * _BITS[form] / 8)))
    for number in range(num_layers):
        tensors = _layer(f"model.layers.{number}.", form)
        save_file(tensors, folder / f"model-{number}.safetensors", metadata={"format": "pt"})
    outside = {
        "model.embed_tokens.weight": torch.zeros(_VOCAB, _HIDDEN, dtype=torch.bfloat16),
        "model.norm.weight": torch.ones(_HIDDEN, dtype=torch.bfloat16),
    }
    save_file(outside, folder / "model-rest.safetensors", metadata={"format": "pt"})
    _write_descriptions(folder, form, num_layers)
    return int(num_layers * per_layer * _BITS[form] / 8)


def _matrices() -> Iterator[tuple[str, int, int]]:
    for name in ("q", "k", "v", "o"):
        yield f"self_attn.{name}_proj.", _HIDDEN, _HIDDEN
    for name in ("gate", "up"):
        yield f"mlp.{name}_proj.", _INNER, _HIDDEN
    yield "mlp.down_proj.", _HIDDEN, _INNER


def _layer(place: str, form: str) -> dict[str, torch.Tensor]:
    tensors = {
        f"{place}{name}_layernorm.weight": torch.ones(_HIDDEN, dtype=torch.bfloat16)
        for name in ("input", "post_attention")
    }
    for name, rows, columns in _matrices():
        if form == "bfloat16":
            weight = torch.randn(rows, columns, dtype=torch.bfloat16) / 50
            tensors[f"{place}{name}weight"] = weight
            continue
        words = torch.randint(-(2**31), 2**31, (rows, columns // 8), dtype=torch.int32)
        scales = torch.full((rows, columns // _GROUP), 0.004, dtype=torch.bfloat16)
        tensors[f"{place}{name}weight_packed"] = words
        tensors[f"{place}{name}weight_scale"] = scales
        tensors[f"{place}{name}weight_shape"] = torch.tensor([rows, columns])
    return tensors


def _write_descriptions(folder: Path, form: str, num_layers: int) -> None:
    settings = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "dtype": "bfloat16",
        "vocab_size": _VOCAB,
        "hidden_size": _HIDDEN,
        "intermediate_size": _INNER,
        "num_hidden_layers": num_layers,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _HEADS,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    }
    if form == "w4a16":
        weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": _GROUP}
        settings["quantization_config"] = {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
            "ignore": ["lm_head"],
        }
    (folder / "config.json").write_text(json.dumps(settings))
    _write_index(folder)


def _write_index(folder: Path) -> None:
    from safetensors import safe_open

    places: dict[str, str] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            places |= dict.fromkeys(file.keys(), path.name)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
