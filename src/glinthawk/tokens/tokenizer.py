"""The tokenizer that comes with a model."""

from pathlib import Path
from typing import Any

from glinthawk.core.errors import ModelError
from glinthawk.core.gguf_folder import FILE_NAME, has_text
from glinthawk.core.hub import check_hub
from glinthawk.core.source import refuse_code

__all__ = ["load_tokenizer"]

#: A folder with none of these has no tokenizer. Patterns, as some models bring their own names.
_FILES = ("tokenizer*", "vocab.*", "*.tiktoken", "*.model", "tekken.json")


def load_tokenizer(model: str | Path, trust: bool = False) -> Any | None:
    """The tokenizer of a model folder or hub name; None for a folder without one. Code that comes
    with it runs only with ``trust``. Raises ModelError."""
    folder = Path(model)
    options = {"gguf_file": FILE_NAME} if has_text(folder) else {}
    if folder.is_dir() and not options and not any(any(folder.glob(name)) for name in _FILES):
        return None
    check_hub(str(model))
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(model), trust_remote_code=trust, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        refuse_code(str(model), error)
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"the tokenizer of {model} cannot be loaded ({reason}); repair its files, or give "
            "a model folder without tokenizer files and prompts as token ids"
        ) from error
