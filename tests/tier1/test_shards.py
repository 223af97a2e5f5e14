"""Weight files that are broken are named, whatever reads them later."""

from collections.abc import Callable
from pathlib import Path

import pytest

from families import make_model
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import ModelError
from glinthawk.core.slices import split_layers
from glinthawk.tier1.model.loader import load_model

_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4976698672\n"

#: What became of a file's bytes, and what is said of it.
FAULTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a pointer": (lambda _: _POINTER, "git lfs pull"),
    "empty": (lambda _: b"", "has 0 bytes"),
    "cut in its tensors": (lambda raw: raw[:-1], "is cut off: "),
    "cut in its header": (lambda raw: raw[:100], "in its header"),
    "cut in its length": (lambda raw: raw[:5], "has 5 bytes"),
    "a page of a web site": (lambda _: b"<!DOCTYPE html><html>Not found</html>", "no safetensors"),
    "another header": (lambda raw: raw[:8] + b"?" + raw[9:], "cannot be read"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_file_is_named(name: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path, "llama")
    path = folder / "model.safetensors"
    spoil, said = FAULTS[name]
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ModelError) as caught:
        load_model(EngineConfig(model=str(folder)))
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_weights_of_another_shape_are_named(tmp_path: Path) -> None:
    """transformers' own report is silent where a command is quiet."""
    folder = make_model(tmp_path, "llama")
    config = folder / "config.json"
    other = config.read_text().replace('"intermediate_size": 96', '"intermediate_size": 80')
    config.write_text(other)
    for part in (None, *split_layers(3, 2)):
        with pytest.raises(ModelError, match=r"proj.weight is \(.*96.*\) in the files and \(.*80"):
            load_model(EngineConfig(model=str(folder)), part)
