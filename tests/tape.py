"""A recorder for CPUs: every operation of a piece, with its arguments and results.

As with a CUDA graph, what was recorded holds no numbers before a replay, and a replay reads and
writes the memory of the recording, whatever became of it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["TapeRecorder"]


class _Operation:
    """One call; what it made is kept, and made again in the same memory."""

    def __init__(self, func: Any, args: Any, kwargs: Any) -> None:
        self._call = lambda: func(*args, **kwargs)
        self.result = self._call()
        known = {_memory(tensor) for tensor in _tensors((args, kwargs))}
        self._is_new = [_memory(tensor) not in known for tensor in _tensors(self.result)]

    def replay(self) -> None:
        results = zip(self._is_new, _tensors(self.result), _tensors(self._call()), strict=True)
        for is_new, kept, again in results:
            if is_new:  # else it is a view of an argument, or was written in place
                kept.copy_(again)

    def forget(self) -> None:
        """As if it had never been computed."""
        for is_new, kept in zip(self._is_new, _tensors(self.result), strict=True):
            if is_new and kept.is_floating_point():
                kept.fill_(float("nan"))


class _Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[_Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations.append(_Operation(func, args, kwargs or {}))
        return self.operations[-1].result


class TapeRecorder:
    """Records what tensors go through on a CPU. Counts, so that a test sees that it was used."""

    def __init__(self) -> None:
        self.num_pools = self.num_pieces = self.num_replays = 0

    def rehearse(self, run: Callable[[], object]) -> None:
        run()

    def new_pool(self) -> int:
        self.num_pools += 1
        return self.num_pools

    def record(self, run: Callable[[], Any], pool: int) -> tuple[Any, Callable[[], None]]:
        assert pool == self.num_pools
        self.num_pieces += 1
        tape = _Tape()
        with tape:
            result = run()

        def replay() -> None:
            self.num_replays += 1
            for operation in tape.operations:
                operation.replay()

        for operation in tape.operations:
            operation.forget()
        return result, replay


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
