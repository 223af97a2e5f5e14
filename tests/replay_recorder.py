"""A recorder for CPUs: every operation of a piece, with its arguments and results.

As with a CUDA graph, what was recorded holds no numbers before a replay, and a replay reads and
writes the memory of the recording, whatever became of it. What a recorded operation reads and none
made is borrowed, not owned: a replay fails when its owner has let it go.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["TapeRecorder"]


class _Borrowed:
    """A tensor in memory that somebody else owns."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._storage = StorageWeakRef(tensor.untyped_storage())
        self._dtype = tensor.dtype
        self._place = tensor.storage_offset(), tensor.size(), tensor.stride()

    def take(self) -> torch.Tensor:
        storage = torch.UntypedStorage._new_with_weak_ptr(self._storage.cdata)
        assert storage is not None, f"a replay reads {self._place[1]} numbers that nobody owns"
        return torch.empty(0, dtype=self._dtype).set_(storage, *self._place)


class _Operation:
    """One call; what it made is kept, and made again in the same memory. ``made`` is the memory
    that the operations of this recording made so far."""

    def __init__(self, func: Any, args: Any, kwargs: Any, made: set[int]) -> None:
        self._func = func
        self.result = func(*args, **kwargs)
        known = {_memory(tensor) for tensor in _tensors((args, kwargs))}
        self._is_new = [_memory(tensor) not in known for tensor in _tensors(self.result)]
        self._inputs = tree_map(lambda leaf: _borrow(leaf, made), (args, kwargs))
        made.update(map(_memory, _new(self._is_new, self.result)))

    def _call(self) -> Any:
        args, kwargs = tree_map(_take, self._inputs)
        return self._func(*args, **kwargs)

    def replay(self) -> None:
        results = zip(self._is_new, _tensors(self.result), _tensors(self._call()), strict=True)
        for is_new, kept, again in results:
            if is_new:  # else it is a view of an argument, or was written in place
                kept.copy_(again)

    def forget(self) -> None:
        """As if it had never been computed."""
        for kept in _new(self._is_new, self.result):
            if kept.is_floating_point():
                kept.fill_(float("nan"))


class _Tape(TorchDispatchMode):
    def __init__(self, made: set[int]) -> None:
        super().__init__()
        self._made = made
        self.operations: list[_Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations.append(_Operation(func, args, kwargs or {}, self._made))
        return self.operations[-1].result


class TapeRecorder:
    """Records what tensors go through on a CPU. Counts, so that a test sees that it was used."""

    def __init__(self) -> None:
        self.num_pools = self.num_pieces = self.num_replays = 0
        self._made: set[int] = set()

    def rehearse(self, run: Callable[[], object]) -> None:
        run()

    def new_pool(self) -> int:
        self.num_pools += 1
        self._made = set()
        return self.num_pools

    def record(self, run: Callable[[], Any], pool: int) -> tuple[Any, Callable[[], None]]:
        assert pool == self.num_pools
        self.num_pieces += 1
        tape = _Tape(self._made)
        with tape:
            result = run()

        def replay() -> None:
            self.num_replays += 1
            for operation in tape.operations:
                operation.replay()

        for operation in tape.operations:
            operation.forget()
        return result, replay


def _borrow(leaf: Any, made: set[int]) -> Any:
    is_borrowed = isinstance(leaf, torch.Tensor) and _memory(leaf) not in made
    return _Borrowed(leaf) if is_borrowed else leaf


def _take(leaf: Any) -> Any:
    return leaf.take() if isinstance(leaf, _Borrowed) else leaf


def _new(is_new: list[bool], result: Any) -> list[torch.Tensor]:
    return [tensor for new, tensor in zip(is_new, _tensors(result), strict=True) if new]


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
