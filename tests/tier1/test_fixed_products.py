"""An expert's arithmetic gives a row the same bits, however many rows it has."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch.nn import functional as F

from glinthawk.tier1.forward.experts import FixedProducts

_CURVES: list[Callable[[torch.Tensor], torch.Tensor]] = [
    torch.sigmoid,
    torch.tanh,
    F.silu,
    F.gelu,
    torch.Tensor.sigmoid,
    torch.nn.SiLU(),
    torch.nn.GELU("tanh"),
]


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("curve", _CURVES, ids=range(len(_CURVES)))
@pytest.mark.parametrize("columns", [96, 33])
def test_a_row_on_a_curve(
    curve: Callable[[torch.Tensor], torch.Tensor], columns: int, dtype: torch.dtype
) -> None:
    """Among so many that two threads share them, and end within a row, too."""
    x = (torch.randn(1100, columns, generator=torch.Generator().manual_seed(0)) * 3).to(dtype)
    with FixedProducts():
        alone = torch.cat([curve(row) for row in x.split(1)])
        for count in (7, 343, 345, 1001, 1100):
            assert torch.equal(curve(x[:count]), alone[:count])
            assert torch.equal(curve(x[:count, ::2]), curve(x[:, ::2])[:count])
    torch.testing.assert_close(alone, curve(x))


def test_a_row_on_a_curve_of_torchs_depends_on_the_others() -> None:
    """Else there is nothing to do here any more."""
    if "avx" not in torch.backends.cpu.get_cpu_capability().lower():
        pytest.skip("no vectors")
    x = torch.randn(1100, 96, generator=torch.Generator().manual_seed(0)) * 3
    alone = torch.cat([torch.sigmoid(row) for row in x.split(1)])
    assert not all(torch.equal(torch.sigmoid(x[:n]), alone[:n]) for n in range(340, 400))
