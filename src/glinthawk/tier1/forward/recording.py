"""Work that a device was given, recorded so that all of it can be given again by one call."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["CudaRecorder", "Recorder", "Replay", "Unrecordable", "ValueWatch"]

#: Does what was recorded again, into the same memory.
Replay = Callable[[], None]
_Result = TypeVar("_Result")

_VALUE_TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
#: ``bool(tensor)``, and what ``tolist`` and ``numpy`` begin with.
_READS = {torch.ops.aten.is_nonzero.default, torch.ops.aten.resolve_neg.default}


class Unrecordable(Exception):
    """What the model computes next depends on values, or what was recorded computes another."""


class Recorder(Protocol):
    """Records pieces of a run that are replayed in the order in which they were recorded."""

    def rehearse(self, run: Callable[[], object]) -> None:
        """Run, until nothing happens for the first time any more."""
        ...

    def new_pool(self) -> Any:
        """Memory for the pieces of one run; they live in it as long as any of them is kept."""
        ...

    def record(self, run: Callable[[], _Result], pool: Any) -> tuple[_Result, Replay]:
        """Record one piece. Its tensors hold what they should only after a replay."""
        ...


class CudaRecorder:
    """Records CUDA graphs, on a stream of its own as CUDA wants it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def rehearse(self, run: Callable[[], object]) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            run()
            with _no_waiting():
                run()
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()  # nobody else takes memory on this stream

    def new_pool(self) -> Any:
        return torch.cuda.graph_pool_handle()

    def record(self, run: Callable[[], _Result], pool: Any) -> tuple[_Result, Replay]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                result = run()
            except BaseException:
                with contextlib.suppress(RuntimeError):  # the first error says more
                    graph.capture_end()
                raise
            graph.capture_end()
        return result, graph.replay


@contextlib.contextmanager
def _no_waiting() -> Iterator[None]:
    """Whatever makes the host wait for the device is an error: it cannot be recorded."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls the mode a prototype
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)


class ValueWatch(TorchDispatchMode):
    """Raises Unrecordable where a shape, or what Python does next, may depend on values."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if _depends_on_values(func, args):
            raise Unrecordable(f"{func} reads values")
        return func(*args, **(kwargs or {}))


def _depends_on_values(func: Any, args: Sequence[Any]) -> bool:
    if func is torch.ops.aten.index.Tensor:  # by numbers it has a shape, by a mask any
        masks = (torch.bool, torch.uint8)
        return any(index is not None and index.dtype in masks for index in args[1])
    return func in _READS or not _VALUE_TAGS.isdisjoint(func.tags)
