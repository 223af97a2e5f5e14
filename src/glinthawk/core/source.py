"""Where a model comes from, and what tells one model from another."""

import hashlib
from importlib.resources import files
from pathlib import Path

__all__ = ["identify_model", "resolve_model"]

_DESCRIPTIONS = ("*.json", "*.jinja", "*.model")


def resolve_model(name: str) -> str:
    """The folder of the bundled ``demo``, or ``name`` itself: a folder or a hub name."""
    return str(files("glinthawk") / "demo") if name == "demo" else name


def identify_model(name: str) -> str:
    """A hub model is its name; a folder is a digest of its descriptions and its weights' sizes.

    The same folder elsewhere is the same model; reading gigabytes of weights would take minutes.
    """
    folder = Path(resolve_model(name))
    if not folder.is_dir():
        return name
    digest = hashlib.sha256()
    for pattern in _DESCRIPTIONS:
        for path in sorted(folder.glob(pattern)):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(f"{path.name}\0{path.stat().st_size}".encode())
    return f"sha256:{digest.hexdigest()}"
