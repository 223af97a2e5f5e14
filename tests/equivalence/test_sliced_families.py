"""Slices, each loaded by itself, one after the other == the model's own forward."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from families import FAMILIES, make_model
from glinthawk.core.batch import Batch, Span
from glinthawk.core.config import PAGE_TOKENS, EngineConfig
from glinthawk.core.errors import ModelError
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request, Sequence
from glinthawk.core.slices import LayerSlice, split_layers
from glinthawk.tier1.forward.packing import PackedLinear
from glinthawk.tier1.kv.home import LocalHome
from glinthawk.tier1.model.loader import LoadedModel, count_layers, load_model
from glinthawk.tier1.model.self_check import check_cut
from glinthawk.tier1.node import Node
from glinthawk.tier2.cache import KVCache

_LENGTHS = (5, 1, 17, 30)
_STEPS = 6
_NUM_PAGES = 16


class Stage:
    """A slice with a node and KV of its own layers alone."""

    def __init__(self, config: EngineConfig, part: LayerSlice) -> None:
        self.loaded: LoadedModel = load_model(config, part)
        spec = self.loaded.spec
        assert len(spec.layers) == len(part)
        num_bytes = _NUM_PAGES * PAGE_TOKENS * spec.kv_bytes_per_token(spec.dtype)
        self.home = LocalHome(0, KVCache(spec.layers, num_bytes, spec.dtype, threads=1))
        self._node = Node(self.loaded.model, spec.layers, [self.home], lambda _, result, __: result)

    def check(self) -> None:
        check_cut(self.loaded.model, self.loaded.spec, self.home, self.loaded.truth)

    def step(self, batch: Batch, hidden: torch.Tensor | None) -> torch.Tensor:
        self._node.start(batch, hidden)
        [(_, result)] = self._node.poll()
        assert isinstance(result, torch.Tensor)
        return result


def _load_stages(path: Path, num_slices: int, **settings: Any) -> list[Stage]:
    config = EngineConfig(model=str(path), **settings)
    return [Stage(config, part) for part in split_layers(count_layers(config), num_slices)]


def _make_sequences() -> list[Sequence]:
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(3, 200, (n,), generator=generator).tolist() for n in _LENGTHS]
    params = SamplingParams(temperature=0)
    return [
        Sequence(Request(number, tuple(prompt), params, seed=0, max_tokens=_STEPS))
        for number, prompt in enumerate(prompts)
    ]


def _make_batch(step: int, sequences: list[Sequence]) -> Batch:
    """Every step another prompt joins those that decode."""
    extends = tuple(Span(s, 0, s.length - 1, 1) for s in sequences[:step])
    prompts = tuple(Span(s, 0, 0, s.length) for s in sequences[step : step + 1])
    return Batch(step, extends, prompts)


def _run(stages: list[Stage]) -> Iterator[tuple[Sequence, torch.Tensor]]:
    """Greedy answers, a token a time: the sequence before it, and its logits."""
    sequences = _make_sequences()
    for step in range(_STEPS + len(sequences) - 1):
        batch, hidden = _make_batch(step, sequences), None
        for stage in stages:
            hidden = stage.step(batch, hidden)
        assert hidden is not None
        for span, logits in zip(batch.spans, hidden, strict=True):
            yield span.sequence, logits
            span.sequence.output.append(int(logits.argmax()))


@pytest.mark.parametrize("num_slices", [1, 2, 3])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_slices_equal_the_models_own_forward(tmp_path: Path, family: str, num_slices: int) -> None:
    path = make_model(tmp_path, family)
    stages = _load_stages(path, num_slices)
    own = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager")
    with torch.inference_mode():
        for stage in stages:
            stage.check()
        for sequence, logits in _run(stages):
            tokens = [*sequence.request.prompt, *sequence.output]
            truth = own(torch.tensor([tokens])).logits[0, -1]
            assert logits.argmax() == truth.argmax()
            torch.testing.assert_close(logits, truth, atol=2e-4, rtol=2e-3)


@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU packs no bfloat16"
)
@pytest.mark.parametrize("family", ["llama", "gemma2", "phi3"])
def test_slices_are_packed_as_a_whole_model_is(tmp_path: Path, family: str) -> None:
    path = make_model(tmp_path, family)
    whole, sliced = (_load_stages(path, n, dtype="bfloat16") for n in (1, 3))
    for stage in sliced:
        stage.check()
    packed = [
        sum(isinstance(m, PackedLinear) for m in stage.loaded.model.modules())
        for stage in (*whole, *sliced)
    ]
    assert packed[0] == sum(packed[1:]) and min(packed) > 0
    with torch.inference_mode():
        pairs = zip(_run(whole), _run(sliced), strict=True)
        for (_, ours), (_, theirs) in pairs:
            assert torch.equal(ours, theirs)


def _shard(path: Path) -> dict[str, str]:
    """Write the model anew in many files; the file of each weight."""
    model = AutoModelForCausalLM.from_pretrained(path)
    (path / "model.safetensors").unlink()
    model.save_pretrained(path, max_shard_size="20KB")
    index = json.loads((path / "model.safetensors.index.json").read_text())
    weight_map: dict[str, str] = index["weight_map"]
    return weight_map


def _layer(key: str) -> int | None:
    """The layer that a checkpoint's key belongs to."""
    for name, number in pairwise(key.split(".")):
        if name in ("layers", "h") and number.isdigit():
            return int(number)
    return None


@pytest.mark.parametrize("family", ["llama", "mixtral", "gemma2", "gpt_neox", "deepseek_v3"])
def test_a_slice_reads_no_file_of_the_others(tmp_path: Path, family: str) -> None:
    path = make_model(tmp_path, family)
    whole = load_model(EngineConfig(model=str(path), dense="plain")).model.state_dict()
    weight_map = _shard(path)
    middle = {file for key, file in weight_map.items() if _layer(key) == 1}
    for file in set(weight_map.values()) - middle:
        (path / file).unlink()
    part = LayerSlice(1, 2, 3)
    kept = load_model(EngineConfig(model=str(path), dense="plain"), part).model.state_dict()
    assert kept and {_layer(name) for name in kept} == {1}
    for name, weight in kept.items():
        assert torch.equal(weight, whole[name])
    with pytest.raises(ModelError):
        load_model(EngineConfig(model=str(path)), LayerSlice(0, 1, 3))
