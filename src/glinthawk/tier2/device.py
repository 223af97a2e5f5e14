"""The device that a worker's KV cache lies on, and tensors on their way there and back."""

import torch

__all__ = ["describe", "pack", "to_device", "to_host", "unpack"]

#: Where each tensor of a parcel begins in the device's memory: kernels read lines of 128 bytes.
_ALIGNMENT = 128


def describe(device: torch.device) -> str:
    """What computes there, in words."""
    if device.type == "cpu":
        return f"{torch.get_num_threads()} threads"
    return torch.cuda.get_device_name(device)


def to_device(tensors: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """Tensors of one type on the CPU, on ``device``: there in one copy that nobody waits for.

    On a CPU they stay what they are. The pinned memory is torch's own, which reuses it only when
    the copy is over.
    """
    if device.type == "cpu":
        return tensors
    parcel = pack(tensors, pinned=True).to(device, non_blocking=True)
    return unpack(parcel, tensors)


def pack(tensors: list[torch.Tensor], pinned: bool) -> torch.Tensor:
    """``tensors`` as bytes one after the other, each at a multiple of 128."""
    sizes = [_room(tensor) for tensor in tensors]
    parcel = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=pinned)
    for place, tensor in zip(unpack(parcel, tensors), tensors, strict=True):
        place.copy_(tensor)
    return parcel


def unpack(parcel: torch.Tensor, like: list[torch.Tensor]) -> list[torch.Tensor]:
    """Views of what ``pack`` has packed."""
    places = parcel.split([_room(tensor) for tensor in like])
    return [
        place[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        for place, tensor in zip(places, like, strict=True)
    ]


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """``tensor`` on the CPU, complete: waits for the device."""
    if tensor.device.type == "cpu":
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensor.device).synchronize()
    return host


def _room(tensor: torch.Tensor) -> int:
    return -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
