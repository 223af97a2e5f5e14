"""Tensors on their way to a worker's device and back."""

import pytest
import torch

from attention_cases import DTYPES, normal
from glinthawk.attention.devices import pick_device
from glinthawk.core.errors import UsageError
from glinthawk.tier2.device import pack, to_device, to_host, unpack

CPU = torch.device("cpu")


def _parcel(dtype: torch.dtype) -> list[torch.Tensor]:
    return [
        normal(n, *shape, dtype=dtype) for n, shape in enumerate([(3, 5, 7), (3, 1, 7), (3, 1, 9)])
    ]


@pytest.mark.parametrize("dtype", list(DTYPES.values()))
def test_what_is_packed_comes_out(dtype: torch.dtype) -> None:
    tensors = _parcel(dtype)
    found = unpack(pack(tensors, pinned=False), tensors)
    assert all(map(torch.equal, found, tensors))
    assert {(tensor.storage_offset() * tensor.itemsize) % 128 for tensor in found} == {0}


def test_on_a_cpu_nothing_is_copied() -> None:
    tensors = _parcel(torch.float32)
    there = to_device(tensors, CPU)
    assert all(map(lambda a, b: a.data_ptr() == b.data_ptr(), there, tensors))
    assert to_host(tensors[0]) is tensors[0]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", list(DTYPES.values()))
def test_there_and_back(dtype: torch.dtype) -> None:
    tensors = _parcel(dtype)
    there = to_device(tensors, torch.device("cuda"))
    assert all(tensor.is_cuda for tensor in there)
    assert all(map(torch.equal, map(to_host, there), tensors))


def test_a_device_is_picked_by_name() -> None:
    assert pick_device("cpu") == CPU
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one here")
def test_a_gpu_that_is_not_there_is_an_error_that_offers_the_cpu() -> None:
    with pytest.raises(UsageError, match="--device cpu"):
        pick_device("cuda")
