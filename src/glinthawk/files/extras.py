"""Packages that only some commands or forms of files need."""

from importlib import import_module
from typing import Any

from glinthawk.core.errors import UsageError

__all__ = ["load_extra"]

_EXTRAS = {
    "datasets": "datasets",
    "prometheus_client": "serve",
    "pyarrow": "files",
    "python_multipart": "serve",
    "starlette": "serve",
    "uvicorn": "serve",
    "zstandard": "files",
}


def load_extra(module: str, what: str) -> Any:
    """``module``, for ``what``. Raises UsageError that names the extra where it is missing."""
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ImportError as error:
        raise UsageError(
            f"{what} needs {package}: pip install 'glinthawk[{_EXTRAS[package]}]'"
        ) from error
