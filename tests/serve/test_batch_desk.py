"""What becomes of a batch whose life breaks off."""

from typing import Any

import pytest

from glinthawk.serve.batch_desk import BatchDesk, _Entry


class _Life:
    """Fails as often as it is told to."""

    def __init__(self, is_over: bool, *errors: Exception) -> None:
        self.is_over, self._errors = is_over, list(errors)
        self.said: list[str] = []

    def live(self, *_: object) -> None:
        self.said.append("live")
        if self._errors:
            raise self._errors.pop(0)

    def give_up(self, _owner: str, _id: str, error: Exception) -> None:
        self.said.append(f"give up: {error}")


@pytest.mark.parametrize(
    ("is_over", "errors", "said"),
    [
        (False, [], ["live"]),
        # A defect of its own ends it, and then it is cleaned up after.
        (False, [KeyError("a")], ["live", "give up: 'a'", "live"]),
        (False, [KeyError("a"), KeyError("b")], ["live", "give up: 'a'", "live"]),
        # One of the engine is none of the batch: the next start goes on with it.
        (True, [RuntimeError("out of memory")], ["live"]),
    ],
)
def test_who_is_at_fault(is_over: bool, errors: list[Exception], said: list[str]) -> None:
    life: Any = _Life(is_over, *errors)
    nothing: Any = None
    desk = BatchDesk(nothing, nothing, life)
    entry = desk._entries["batch"] = _Entry(1, 0, "owner", "batch")
    desk._follow(entry)
    assert life.said == said
    assert not desk._entries
    desk.stop()
