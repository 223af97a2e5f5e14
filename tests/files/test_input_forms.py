"""Whatever form an input has, its lines are those of the JSONL file."""

import gzip
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glinthawk.core.errors import UsageError
from glinthawk.files import json_values
from glinthawk.files.request_maker import TableOptions
from glinthawk.files.request_source import RequestSource
from input_forms import FORMS, as_lines, write_form, write_memory

#: No lone surrogates: not every encoding has them.
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _TEXT,
    lambda some: st.lists(some, max_size=3) | st.dictionaries(_TEXT, some, max_size=3),
    max_leaves=5,
)
_OBJECTS = st.lists(st.dictionaries(_TEXT, _VALUES, min_size=1, max_size=3), min_size=1, max_size=6)
LINES = [{"custom_id": str(n), "body": {"prompt": f"naïve {n} [日本語] \n}}"}} for n in range(9)]


def read(place: str | Path) -> list[Any]:
    return [json.loads(line) for line in RequestSource(str(place), TableOptions()).lines()]


@pytest.mark.parametrize("form", FORMS)
@given(objects=_OBJECTS)
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_every_form_has_the_same_lines(
    form: str, objects: list[dict[str, Any]], tmp_path: Path
) -> None:
    assert read(write_form(tmp_path, form, objects)) == objects


@pytest.mark.parametrize("form", FORMS)
def test_only_a_plain_batch_file_is_read_in_place(form: str, tmp_path: Path) -> None:
    place = write_form(tmp_path, form, LINES)
    in_place = RequestSource(place, TableOptions()).plain_file()
    plain = form in ("plain.jsonl", "no-end.jsonl", "mark.jsonl")
    assert in_place == (Path(place) if plain else None)


@pytest.mark.parametrize("form", ["array.json", "objects.json"])
def test_values_are_cut_anywhere(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_values, "_CHUNK", 1)
    assert read(write_form(tmp_path, form, LINES)) == LINES


def test_folders_and_patterns_are_read_in_order_of_name(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "more").mkdir(exist_ok=True)
        file = tmp_path / "more" / f"{number}.jsonl"
        file.write_bytes(as_lines(LINES[3 * number : 3 * number + 3]).removesuffix(b"\n"))
    (tmp_path / "more" / "README.md").write_text("# nothing of ours")
    (tmp_path / "more" / ".hidden.jsonl").write_text("nor this")
    assert read(tmp_path / "more") == LINES
    assert read(tmp_path / "mo*" / "[0-9].jsonl") == LINES
    assert read(tmp_path / "**" / "*[0-9].jsonl") == LINES


def test_urls_are_read(tmp_path: Path) -> None:
    for number in range(3):
        part = as_lines(LINES[3 * number : 3 * number + 3])
        url = write_memory(f"{tmp_path.name}/{number}.jsonl.gz", gzip.compress(part))
        assert read(url) == LINES[3 * number : 3 * number + 3]
    assert read(f"memory://{tmp_path.name}") == LINES
    assert read(f"memory://{tmp_path.name}/*.gz") == LINES


@pytest.mark.parametrize("name", ["rows.csv.jsonl", "rows.tsv.gz.jsonl", "csv.1"])
def test_a_name_is_of_csv_by_its_end(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(as_lines(LINES))
    assert read(tmp_path / name) == LINES


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(gzip.compress(as_lines(LINES))))
    writer.start()
    source = RequestSource(str(pipe), TableOptions())
    assert source.digest is None and source.plain_file() is None
    assert [json.loads(line) for line in source.lines()] == LINES
    writer.join()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (gzip.compress(as_lines(LINES))[:-9], "cannot read"),
        (b"\x1f\x8b" + b"rubbish" * 9, "cannot read"),
        (zstandard.ZstdCompressor().compress(as_lines(LINES))[:-5], "middle of a frame"),
        (b"\x28\xb5\x2f\xfd" + b"rubbish" * 9, "cannot read"),
        (b"PK\x03\x04" + bytes(99), "is a ZIP file: unpack it first"),
        (b"ARROW1" + bytes(99), "save it as Parquet"),
        (b"PAR1" + bytes(99), "cannot read"),
        (b"\xff\xfe" + "{}".encode("utf-16-le") + b"x", "is not text in UTF-8"),
        (b'[{"a": 1}, {"a": tru}]', "is not JSON at value 2"),
        (b'[{"a": 1}, {"a": 1}', "the array has no end"),
        (b'[{"a": 1}] {"a": 1}', "more after the array's end"),
        (b'{\n"a": 1}\n{\n"a": ', "is not JSON at value 2"),
    ],
)
def test_a_file_that_is_damaged_or_something_else_is_named(
    data: bytes, says: str, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(data)
    with pytest.raises(UsageError, match=says) as caught:
        read(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("nowhere.jsonl", "No such file"),
        ("*.nothing", "no file is like"),
        ("memory://nowhere/at-all.jsonl", "cannot read .*/nowhere/at-all.jsonl"),
        ("nosuch://a/b", "cannot reach nosuch://a/b"),
    ],
)
def test_what_is_not_there_is_named(
    place: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=says):
        read(place)


def test_a_folder_without_inputs_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no file that ends in"):
        read(tmp_path)


def test_a_table_is_asked_for_what_to_ask(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\n1,hello\n")
    with pytest.raises(UsageError, match=r"--prompt-column.*columns are id, text"):
        read(tmp_path / "a.csv")
