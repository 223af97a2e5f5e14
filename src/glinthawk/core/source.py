"""Where a model comes from, and what tells one model from another."""

import hashlib
from importlib.resources import files
from pathlib import Path

from glinthawk.core.errors import ModelError
from glinthawk.core.gguf_folder import find_gguf, make_folder

__all__ = ["identify_model", "refuse_code", "resolve_model"]

#: Those in a folder of their own are sentence-transformers' modules.
_DESCRIPTIONS = ("*.json", "*.jinja", "*.model", "*_*/config.json")


def resolve_model(name: str) -> str:
    """The folder of the bundled ``demo``, one made of a GGUF file, or ``name`` itself: a folder or
    a hub name.

    Raises ModelError for a path at which there is no model.
    """
    if name == "demo":
        return str(files("glinthawk") / "demo")
    if (file := find_gguf(name)) is not None:
        return str(make_folder(file))
    path = Path(name)
    is_path = path.exists() or path.is_absolute() or name.startswith(".")
    if is_path and not (path / "config.json").is_file():
        raise ModelError(
            f"{name} is no model folder: it has no config.json. Give a folder in Hugging Face "
            "format, a GGUF file, a hub name, or demo."
        )
    return name


def refuse_code(name: str, error: Exception) -> None:
    """Raise ModelError if ``error`` says that a model cannot be read without running its own
    code."""
    if "trust_remote_code" in str(error):
        raise ModelError(
            f"{name} brings code of its own, which is not run unasked: read its files, then give "
            "--trust-remote-code (from Python: trust_remote_code=True)"
        ) from error


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
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.gguf")]):
        digest.update(f"{path.name}\0{path.stat().st_size}".encode())
    return f"sha256:{digest.hexdigest()}"
