"""K and V rebuilt from what attention was given are those of the pass, or the model is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from families import FAMILIES, make_model
from glinthawk.core.config import Dtype, EngineConfig
from glinthawk.core.errors import UnsupportedModel
from glinthawk.core.pages import Pages
from glinthawk.tier1.forward.cut import Call, Pass
from glinthawk.tier1.kv.token_sharding import Rows, Share
from glinthawk.tier1.model.loader import LoadedModel, load_model
from glinthawk.tier1.xcache.rebuild import Rebuild, learn_rebuild
from glinthawk.tier1.xcache.store import XCache
from glinthawk.wire.messages import View


def _load(folder: Path, family: str, dtype: Dtype = "float32") -> LoadedModel:
    return load_model(EngineConfig(model=str(make_model(folder, family)), dtype=dtype))


def _calls(loaded: LoadedModel, positions: list[int]) -> list[Call]:
    """Of a pass of random tokens."""
    ids = torch.randint(3, 200, (len(positions),), generator=torch.Generator().manual_seed(5))
    forward = Pass(loaded.model, ids, torch.tensor(positions), torch.tensor([0]))
    calls, result = [], forward.resume(None)
    while isinstance(result, Call):
        calls.append(result)
        shape = (len(ids), result.queries.shape[1], result.values.shape[-1])
        result = forward.resume(torch.randn(shape).to(result.values))
    return calls


def _rebuilt(rebuild: Rebuild, calls: list[Call], rows: torch.Tensor) -> list[list[torch.Tensor]]:
    """K and V of some rows by layer, from what is kept of all, each row at a place of its own."""
    memory: dict[int, torch.Tensor] = {}
    for layer, call in enumerate(calls):
        assert call.arguments is not None
        memory |= dict(rebuild.kept(layer, call.arguments))
    assert sorted(memory) == list(range(len(rebuild.slots)))
    for slot, tensor in memory.items():
        assert (tensor.shape[1:], tensor.dtype) == rebuild.slots[slot]
    return [
        list(rebuild(layer, [memory[slot][rows] for slot in rebuild.slots_of(layer)]))
        for layer in range(len(calls))
    ]


@torch.inference_mode()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_rows_of_any_sequences_are_rebuilt_as_they_were(
    tmp_path: Path, family: str, dtype: Dtype
) -> None:
    loaded = _load(tmp_path, family, dtype)
    rebuild = learn_rebuild(loaded.model, loaded.spec)
    calls = _calls(loaded, [*range(9), 40, 13, *range(3, 30), 101])
    rows = torch.tensor([1, 3, 9, 10, 11, 12, 25, 37])
    tolerance = 1e-5 if dtype == "float32" else 0.02
    for call, rebuilt in zip(calls, _rebuilt(rebuild, calls, rows), strict=True):
        for ours, own in zip(rebuilt, (call.keys[0], call.values[0]), strict=True):
            distance = (ours.float() - own[:, rows].float()).norm()
            assert distance <= tolerance * own[:, rows].float().norm()


def test_angles_are_kept_once_and_queries_are_not_computed(tmp_path: Path) -> None:
    loaded = _load(tmp_path, "llama")
    rebuild = learn_rebuild(loaded.model, loaded.spec)
    hidden, angle, position = 64 * 4, 16 * 4, 8
    assert rebuild.bytes_per_token == 3 * hidden + 2 * angle + position
    attention: Any = loaded.model.model.layers[0].self_attn
    asked = []
    attention.q_proj.register_forward_hook(lambda *_: asked.append("q"))
    attention.k_proj.register_forward_hook(lambda *_: asked.append("k"))
    calls = _calls(loaded, [0, 1, 2])
    assert asked == ["q", "k"]
    _rebuilt(rebuild, calls, torch.tensor([1]))
    assert asked == ["q", "k", "k"]


def test_of_a_multi_head_model_x_is_half_of_keys_and_values(tmp_path: Path) -> None:
    loaded = _load(tmp_path, "opt")
    rebuild = learn_rebuild(loaded.model, loaded.spec)
    position = 8
    assert rebuild.bytes_per_token == loaded.spec.kv_bytes_per_token("float32") / 2 + position


def test_keys_that_look_at_other_tokens_are_refused_by_name(tmp_path: Path) -> None:
    loaded = _load(tmp_path, "llama")
    attention: Any = loaded.model.model.layers[1].self_attn
    attention.k_proj.register_forward_hook(lambda _module, _args, keys: keys + keys.roll(1, 1))
    with pytest.raises(UnsupportedModel, match=r"llama cannot keep.*layer 1.*--xcache 0"):
        learn_rebuild(loaded.model, loaded.spec)


def test_what_cannot_be_seen_is_refused_by_name(tmp_path: Path) -> None:
    """An attention module that is never called as a module, whose hooks do not run."""
    loaded = _load(tmp_path, "opt")
    for layer in loaded.model.model.decoder.layers:
        attention = layer.self_attn
        layer.__dict__["self_attn"] = attention.forward
        del layer._modules["self_attn"]
    with pytest.raises(UnsupportedModel, match=r"opt cannot keep.*cannot be seen.*--xcache 0"):
        learn_rebuild(loaded.model, loaded.spec)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["opt", "gpt2"])
def test_queries_that_take_the_projections_in_are_answered_alike(
    tmp_path: Path, family: str, dtype: Dtype
) -> None:
    """Where K and V are linear in X, as many rows of many sequences see it."""
    loaded = _load(tmp_path, family, dtype)
    rebuild = learn_rebuild(loaded.model, loaded.spec)
    assert all(rebuild.absorbed(layer) for layer in range(3))
    few, many = (_answers(loaded, rebuild, absorbs) for absorbs in (False, True))
    tolerance = 1e-5 if dtype == "float32" else 0.02
    for rebuilt, absorbed in zip(few, many, strict=True):
        assert (rebuilt - absorbed).norm() <= tolerance * rebuilt.norm()


def _answers(loaded: LoadedModel, rebuild: Rebuild, absorbs: bool) -> tuple[torch.Tensor, ...]:
    """Output and log-sum-exp of rows over random X."""
    lengths = [1, 40, 300, 700]
    pages = Pages(64, 32)
    assert all(pages.grow(number, length) for number, length in enumerate(lengths))
    cache = XCache(rebuild, loaded.spec, pages, torch.device("cpu"), absorbs)
    torch.manual_seed(3)
    cache.fill()
    rows = [0, 1, 2, 3, 3]
    view = View(rows, [0, 3, 0, 290, 0], [1, 40, 300, 700, 650])
    share = Share([view], [list(range(len(rows)))])
    cache.begin(0, share, Rows.upload(share, len(rows), 0, torch.device("cpu")))
    layer = loaded.spec.layers[1]
    q = torch.randn(len(rows), layer.num_heads, layer.head_dim).to(loaded.model.dtype)
    cache.ask(0, 0, q)
    answer = cache.answer(0, 1)
    assert answer is not None
    return answer[1:]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt_neox", "deepseek_v3"])
def test_keys_that_are_turned_cannot_be_taken_in(tmp_path: Path, family: str) -> None:
    loaded = _load(tmp_path, family)
    assert learn_rebuild(loaded.model, loaded.spec).absorbed(0) is None
