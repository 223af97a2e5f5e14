"""What a run writes among its input is no input of its next run."""

from pathlib import Path
from typing import Any

import pytest

from conversions import LINES, TABLE, Killed, run, table
from glinthawk.core.errors import UsageError
from glinthawk.files.own_files import own_names
from glinthawk.files.parts import find_parts
from input_forms import as_lines, write_memory
from job_files import results


@pytest.mark.parametrize("pattern", ["", "*", "*.jsonl*"])
@pytest.mark.parametrize("output", ["out.jsonl", "out.jsonl.gz", "1.jsonl.results"])
def test_a_folder_may_have_the_output_in_it(pattern: str, output: str, tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_bytes(as_lines(LINES[:20]))
    (tmp_path / "2.jsonl").write_bytes(as_lines(LINES[20:]))
    errors = tmp_path / "failed.jsonl"
    source = tmp_path / pattern if pattern else tmp_path
    with pytest.raises(Killed):
        run(source, tmp_path / output, kill_after=9, written=(errors,))
    errors.write_bytes(as_lines(LINES[:1]))
    for restart in (False, True, False):
        run(source, tmp_path / output, written=(errors,), restart=restart)
        made = tmp_path / (output + ".results.jsonl" if output.endswith(".gz") else output)
        assert len(results(made)) == len(LINES)


def test_a_folder_has_no_requests_of_the_work_dir(tmp_path: Path) -> None:
    source = table(tmp_path)
    options: dict[str, Any] = {"table": TABLE, "work_dir": tmp_path}
    (tmp_path / "out").mkdir()
    output = tmp_path / "out" / "o.parquet"
    for _ in range(2):
        run(source.parent, output, **options)
        assert len(results(tmp_path / "o.parquet.results.jsonl")) == 40


def test_only_what_is_an_outputs_own_is_left_out(tmp_path: Path) -> None:
    names = ["out.csv", "out.1.csv", "out.jsonl", "output.jsonl", "out.requests.jsonl"]
    for name in names:
        (tmp_path / name).write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "out.jsonl")
    for output in ("out.jsonl", "link"):
        parts = find_parts(str(tmp_path), own_names([str(tmp_path / output)]))
        assert {Path(part.name).name for part in parts} == {*names} - {"out.jsonl"}
    parts = find_parts(str(tmp_path), own_names([str(tmp_path / "out")]))
    assert {Path(part.name).name for part in parts} == {*names} - {"out.requests.jsonl"}


def test_a_folder_of_outputs_alone_is_empty(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("{}")
    own = own_names([str(tmp_path / "out.jsonl")])
    with pytest.raises(UsageError, match="has no file that ends in"):
        find_parts(str(tmp_path), own)
    with pytest.raises(UsageError, match="no file is like"):
        find_parts(str(tmp_path / "*"), own)


def test_urls_leave_out_the_output_too(tmp_path: Path) -> None:
    for name in ("a.jsonl", "out.jsonl"):
        url = write_memory(f"{tmp_path.name}/{name}", b"{}\n")
    for place in (f"memory://{tmp_path.name}", f"memory://{tmp_path.name}/*.jsonl"):
        (part,) = find_parts(place, own_names([url]))
        assert part.name.endswith("a.jsonl")
