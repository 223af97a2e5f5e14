"""Options whose value may be left out, which typer knows nothing of."""

from collections.abc import Iterable

__all__ = ["fill_bare"]

#: By the option: its value where it stands alone. Port 0 is any free one.
_VALUES = {"--dashboard": "127.0.0.1:0"}


def fill_bare(arguments: Iterable[str]) -> list[str]:
    """
    >>> fill_bare(["--dashboard", "--quiet"]), fill_bare(["--dashboard", ":8001"])
    (['--dashboard=127.0.0.1:0', '--quiet'], ['--dashboard', ':8001'])
    """
    words = list(arguments)
    followers = [*words, "-"][1:]
    return [
        f"{word}={_VALUES[word]}" if word in _VALUES and after.startswith("-") else word
        for word, after in zip(words, followers, strict=True)
    ]
