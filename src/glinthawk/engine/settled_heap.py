"""What the garbage collector need not look at."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["settled_heap"]


@contextmanager
def settled_heap() -> Iterator[None]:
    """Within the block, nothing that there is before it is searched for garbage.

    Libraries and a model are hundreds of thousands of objects. To look at them again each time some
    lines have come and gone takes a quarter of the time of a job whose steps are quick.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
