"""What is told of an error that somebody else's code raised."""

__all__ = ["first_line"]


def first_line(error: BaseException) -> str:
    """Of its text; its kind, if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
