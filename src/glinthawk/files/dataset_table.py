"""A dataset of Hugging Face's: a folder that ``save_to_disk`` made, or a name on their hub."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from glinthawk.core.errors import UsageError
from glinthawk.files.extras import load_extra
from glinthawk.files.parts import is_known_file
from glinthawk.files.places import is_url, telling_failures
from glinthawk.files.table_rows import Row

__all__ = ["DatasetTable", "is_dataset"]

#: owner/name, owner/name:configuration
_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.-]+))?")
_ROWS = 1024
#: To hear whether the hub is there at all.
_PATIENCE_S = 10.0


def is_dataset(place: str) -> bool:
    """Whether ``-i`` means one: never what is a file, or is named like one."""
    path = Path(place)
    if path.exists() or is_url(place):
        return path.is_dir() and _is_saved(path)
    # A path to a file that is not there, with its folder or an ending, is a mistake, not a name.
    is_path = place.startswith((".", "/", "~")) or path.parent.is_dir() or is_known_file(place)
    return not is_path and _NAME.fullmatch(place) is not None


def _is_saved(folder: Path) -> bool:
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


class DatasetTable:
    """Opened at once: raises UsageError if it cannot be, or has several splits of which none is
    given."""

    def __init__(self, place: str, split: str | None) -> None:
        self.name = place
        self._library = load_extra("datasets", f"{place}, a dataset,")
        self._library.disable_progress_bars()
        if Path(place).is_dir():
            self.stamp = _stamp_folder(Path(place))
            self._data = self._saved(place, split)
        else:
            self.stamp, self._data = self._of_hub(place, split)

    def _saved(self, place: str, split: str | None) -> Any:
        with telling_failures("read", place):
            data = self._library.load_from_disk(place)
        if not isinstance(data, dict):
            return data
        if split is None and len(data) == 1:
            return next(iter(data.values()))
        if split not in data:
            raise UsageError(f"{place} has the splits {', '.join(data)}; give --split one of them")
        return data[split]

    def _of_hub(self, place: str, split: str | None) -> tuple[str, Any]:
        found = _NAME.fullmatch(place)
        assert found is not None
        name, configuration = found.groups()
        revision = _ask_hub(name)
        with telling_failures("read", place):
            splits = self._library.get_dataset_split_names(name, configuration, revision=revision)
        if split is None and len(splits) > 1:
            raise UsageError(f"{place} has the splits {', '.join(splits)}; give --split one")
        with telling_failures("read", place):
            data = self._library.load_dataset(
                name, configuration, split=split or splits[0], revision=revision, streaming=True
            )
        return f"{revision},{split or splits[0]}", data

    @property
    def columns(self) -> tuple[str, ...] | None:
        names = self._data.column_names
        return None if names is None else tuple(names)

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        data = self._data
        if columns is not None and data.column_names is not None:
            data = data.select_columns([name for name in columns if name in data.column_names])
        rows = iter(data)
        while True:
            with telling_failures("read", self.name):
                row = next(rows, None)
            if row is None:
                return
            yield row

    def arrow_schema(self) -> Any | None:
        return self._data.features.arrow_schema if self._data.features else None

    def arrow_batches(self, columns: Sequence[str]) -> Iterator[Any]:
        data = self._data.select_columns(list(columns)).with_format("arrow")
        with telling_failures("read", self.name):
            for table in data.iter(_ROWS):
                yield from table.combine_chunks().to_batches()


def _stamp_folder(folder: Path) -> str:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return ";".join(f"{f.name},{f.stat().st_size},{f.stat().st_mtime_ns}" for f in files)


def _ask_hub(name: str) -> str:
    """The dataset's revision. One question: the library itself would ask for half a minute."""
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(name, timeout=_PATIENCE_S).sha)
    except Exception as error:  # of several libraries of HTTP
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"{name} is no file here, and as a dataset the hub does not give it "
            f"({type(error).__name__}: {reason}); correct -i, or download it first"
        ) from error
