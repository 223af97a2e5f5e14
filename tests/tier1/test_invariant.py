"""Passes of a few sizes, and how it is found out which ones agree."""

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from families import make_model
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import UnsupportedModel
from glinthawk.core.slices import LayerSlice
from glinthawk.engine.run import open_run
from glinthawk.tier1.forward.cut import Call, Forward, Pass, Passes, attend_alone, make_hidden
from glinthawk.tier1.forward.invariant import InvariantPasses, cover
from glinthawk.tier1.model.agreement import agree
from glinthawk.tier1.model.loader import LoadedModel, load_model
from glinthawk.tier2.backends.choice import BackendChoice


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def _load(folder: Path, family: str, part: LayerSlice | None = None, **config: Any) -> LoadedModel:
    if not (folder / family).exists():
        make_model(folder, family)
    return load_model(EngineConfig(model=str(folder / family), **config), part)


@given(
    st.integers(0, 5000),
    st.lists(st.integers(1, 300), min_size=1, unique=True).map(sorted),
)
def test_covers_are_large_enough_and_not_much_larger(num_rows: int, sizes: list[int]) -> None:
    chosen = list(cover(num_rows, sizes))
    assert set(chosen) <= set(sizes)
    assert sum(chosen) >= num_rows
    if chosen:
        assert sum(chosen[:-1]) < num_rows
        assert sum(chosen) - num_rows <= max(sizes[0], chosen[-1] // 4)


def _run(
    passes: Passes, hidden: torch.Tensor | None, keep: list[int], n: int
) -> list[torch.Tensor]:
    """q, k, v of every layer and the result, of ``n`` rows."""
    ids = torch.arange(n) * 7 % 200
    forward, found = passes(ids, torch.arange(n) % 30, torch.tensor(keep), hidden), []
    result = forward.resume(None)
    while isinstance(result, Call):
        found += [rows.clone() for rows in result[1:4]]
        result = forward.resume(attend_alone(result))
    forward.close()
    return [*found, result]


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
@pytest.mark.parametrize("part", [None, LayerSlice(0, 1, 3), LayerSlice(1, 3, 3)])
@torch.inference_mode()
def test_parts_in_lockstep_are_one_pass(folder: Path, family: str, part: LayerSlice | None) -> None:
    loaded = _load(folder, family, part)
    plain = partial(Pass, loaded.model)
    gives_hidden = not loaded.part.is_last
    cases = itertools.product([(3, 8), (16,), (64,)], [[0], [5, 9, 20], list(range(21))])
    for sizes, keep in cases:
        hidden = None if loaded.part.is_first else make_hidden(loaded.model, 21)
        parts = InvariantPasses(plain, sizes, gives_hidden)
        ours, own = (_run(passes, hidden, keep, 21) for passes in (parts, plain))
        for one, other in zip(ours, own, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_sizes_that_differ_are_not_used(folder: Path, family: str) -> None:
    loaded = _load(folder, family, batch_invariant=True)

    def passes(input_ids: torch.Tensor, *others: Any, **more: Any) -> Forward:
        kind = _Odd if len(input_ids) == 96 else Pass
        return kind(loaded.model, input_ids, *others, **more)

    sizes = agree(loaded, passes).sizes
    assert 64 in sizes
    assert 96 not in sizes


class _Odd(Pass):
    """Its logits are other ones by as little as there is."""

    def resume(self, output: torch.Tensor | None) -> Call | torch.Tensor:
        result = super().resume(output)
        if isinstance(result, Call):
            return result
        return result.nextafter(torch.tensor(torch.inf))


class _Mixing(torch.nn.Module):
    """A norm over all rows of a pass."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden - hidden.mean(dim=-2, keepdim=True)


def test_rows_that_change_one_another_are_refused(folder: Path) -> None:
    loaded = _load(folder, "llama")
    loaded.model.model.layers[1].input_layernorm = _Mixing()
    with pytest.raises(UnsupportedModel, match="before the attention of layer 1"):
        agree(loaded)


def test_experts_with_as_many_rows_as_there_happen_to_be_would_be_refused(
    folder: Path,
) -> None:
    """In float32 a product of one row is another one than a row of many."""
    with pytest.raises(UnsupportedModel, match="rows that run together"):
        agree(_load(folder, "mixtral", dtype="float32"))
    agree(_load(folder, "mixtral", dtype="float32", batch_invariant=True))


def test_attention_in_plain_torch_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BackendChoice, "kind", "torch")
    _load(folder, "llama")
    config = EngineConfig(model=str(folder / "llama"), batch_invariant=True, tier1_kv="8MiB")
    with pytest.raises(UnsupportedModel, match=r"torch .* leave it out"), open_run(config):
        pass
