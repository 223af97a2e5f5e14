"""A GGUF file as a model folder: a config.json made of its metadata, and a link to the file.

Folders are kept with other caches, one for each file as it is: its path, size and time of change.
"""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from glinthawk.core.errors import ModelError
from glinthawk.core.gguf_settings import describe_gguf

__all__ = ["FILE_NAME", "find_gguf", "has_text", "make_folder"]

#: Of the link.
FILE_NAME = "model.gguf"
#: Changes with what is written into folders.
_VERSION = 1


def find_gguf(name: str) -> Path | None:
    """The file that ``name`` is, or the one in that folder if it has no config.json. Raises
    ModelError for a folder with several."""
    path = Path(name)
    if path.is_file() and path.suffix == ".gguf":
        return path
    if not path.is_dir() or (path / "config.json").exists():
        return None
    found = sorted(path.glob("*.gguf"))
    if len(found) > 1:
        raise ModelError(f"{name} has {len(found)} GGUF files; give one of them, as {found[0]}")
    return found[0] if found else None


def make_folder(file: Path) -> Path:
    """Where ``file`` can be read as a model folder. Raises ModelError for one that cannot be."""
    file = file.resolve()
    stat = file.stat()
    key = f"{_VERSION}\0{file}\0{stat.st_size}\0{stat.st_mtime_ns}"
    place = _cache() / hashlib.sha256(key.encode()).hexdigest()[:32]
    if not place.exists():
        _write(place, file, describe_gguf(file))
    return place


def has_text(folder: Path) -> bool:
    """Whether ``folder`` was made of a file that has a tokenizer too."""
    if not (folder / FILE_NAME).exists():
        return False
    return bool(json.loads((folder / "config.json").read_text()).get("has_tokenizer"))


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "glinthawk" / "gguf"


def _write(place: Path, file: Path, settings: dict[str, Any]) -> None:
    """Whole or not at all, whoever writes it at the same time."""
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=place.parent))
    try:
        (draft / "config.json").write_text(json.dumps(settings, indent=1))
        (draft / FILE_NAME).symlink_to(file)
        draft.rename(place)
    except OSError:
        shutil.rmtree(draft)
        if not place.exists():
            raise
