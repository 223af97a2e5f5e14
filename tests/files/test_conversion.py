"""A job between converters: the same results as without them, however often it is stopped."""

import os
import random
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conversions import LINES, TABLE, Killed, files, run, table
from glinthawk.core.errors import JournalError, UsageError
from glinthawk.files import conversion as conversion_module
from glinthawk.files.conversion import ConversionOptions, open_conversion
from glinthawk.files.places import without_secrets
from glinthawk.files.request_maker import TableOptions
from glinthawk.jobs.journal import Journal
from glinthawk.jobs.output import OutputFile
from input_forms import FORMS, write_form, write_memory
from job_files import results


@pytest.fixture
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the job says without converters."""
    folder = tmp_path_factory.mktemp("plain")
    run(write_form(folder, "plain.jsonl", LINES), folder / "out")
    return results(folder / "out")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_same_results(
    form: str, plain: list[dict[str, Any]], tmp_path: Path
) -> None:
    source = write_form(tmp_path, form, LINES)
    assert run(source, tmp_path / "out")
    assert results(tmp_path / "out") == plain
    assert "out.requests.jsonl" not in files(tmp_path)


@pytest.mark.parametrize("seed", range(4))
def test_a_stopped_job_has_the_same_table(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    source = table(tmp_path)
    options: dict[str, Any] = {"table": TABLE, "keep_columns": ()}
    run(source, tmp_path / "once.parquet", **options)
    output = tmp_path / "again.parquet"
    for _ in range(3):
        with pytest.raises(Killed):
            run(source, output, kill_after=chance.randint(1, 10), **options)
        assert not output.exists()
        assert "again.parquet.requests.jsonl" in files(tmp_path)
    assert run(source, output, **options)
    assert pq.read_table(output) == pq.read_table(tmp_path / "once.parquet")
    assert not run(source, output, **options)
    assert files(tmp_path) == {"in.parquet"} | {
        f"{name}.parquet{more}"
        for name in ("once", "again")
        for more in ("", ".source", ".results.jsonl", ".results.jsonl.journal")
    }


@pytest.mark.parametrize("where", ["write_lines", "save_source_record", "survey_input"])
def test_a_kill_between_two_files_loses_nothing(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The input has grown since the job was begun, and the run ends while it is written anew."""
    source, output = tmp_path / "in.gz", tmp_path / "out"
    source.write_bytes(FORMS["a.jsonl.gz"](LINES[:20]))
    with pytest.raises(Killed):
        run(source, output, kill_after=5)
    source.write_bytes(FORMS["a.jsonl.gz"](LINES))
    before = getattr(conversion_module, where)

    def killed(*arguments: Any) -> None:
        before(*arguments)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(conversion_module, where, killed)
        with pytest.raises(Killed):
            run(source, output)
    assert run(source, output)
    assert [one["custom_id"] for one in results(output)] == [one["custom_id"] for one in LINES]


def test_requests_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = table(tmp_path)
    with pytest.raises(Killed):
        run(source, tmp_path / "out.gz", kill_after=2, table=TABLE)
    monkeypatch.setattr(conversion_module, "write_lines", None)
    assert run(source, tmp_path / "out.gz", table=TABLE)


def test_another_input_or_question_is_refused(tmp_path: Path) -> None:
    source, output = table(tmp_path), tmp_path / "out.parquet"
    with pytest.raises(Killed):
        run(source, output, kill_after=9, table=TABLE)
    other = TableOptions(prompt_column="prompt", endpoint="completions", body={"max_tokens": 4})
    with pytest.raises(JournalError, match="no longer begins with"):
        run(source, output, table=other)
    pq.write_table(pa.table({"prompt": [[n + 1] for n in range(40)]}), source)
    with pytest.raises(JournalError, match=r"in\.parquet no longer begins with"):
        run(source, output, table=TABLE)
    assert run(source, output, table=TABLE, restart=True)
    assert pq.read_table(output).num_rows == 40
    assert "out.parquet.results.jsonl.1" in files(tmp_path)


def test_a_table_may_grow(tmp_path: Path) -> None:
    source, output = table(tmp_path, 10), tmp_path / "out.parquet"
    assert run(source, output, table=TABLE)
    table(tmp_path, 40)
    assert run(source, output, table=TABLE)
    assert pq.read_table(output).num_rows == 40


def test_an_output_of_somebody_else_stays(tmp_path: Path) -> None:
    source, output = table(tmp_path), tmp_path / "out.parquet"
    output.write_text("my thesis")
    with pytest.raises(JournalError, match="is not of a job here"):
        run(source, output, table=TABLE)
    assert output.read_text() == "my thesis"
    assert run(source, output, table=TABLE, restart=True)
    assert (tmp_path / "out.parquet.1").read_text() == "my thesis"


def test_a_url_is_written_at_the_end(tmp_path: Path, plain: list[dict[str, Any]]) -> None:
    data = FORMS["a.jsonl.gz"](LINES)
    source = write_memory(f"{tmp_path.name}/in.jsonl.gz", data)
    output = f"memory://{tmp_path.name}/out.jsonl.gz"
    with pytest.raises(Killed):
        run(source, output, kill_after=7, work_dir=tmp_path)
    assert run(source, output, work_dir=tmp_path)
    assert not run(source, output, work_dir=tmp_path)
    assert results(tmp_path / "out.jsonl.gz.results.jsonl") == plain
    assert files(tmp_path) == {
        "out.jsonl.gz.source",
        "out.jsonl.gz.results.jsonl",
        "out.jsonl.gz.results.jsonl.journal",
    }
    with pytest.raises(JournalError, match="give another --work-dir"):
        run(source, "memory://elsewhere/out.jsonl.gz", work_dir=tmp_path)
    (tmp_path / "other").mkdir()
    assert run(source, "memory://elsewhere/out.jsonl.gz", work_dir=tmp_path / "other")


def test_columns_are_kept_of_tables_in_parquet_alone() -> None:
    for output, given in (("a.jsonl", TABLE), ("a.parquet", TableOptions())):
        with pytest.raises(UsageError, match="--keep-columns is for a table"):
            ConversionOptions(input="in", output=output, table=given, keep_columns=())


def test_columns_are_kept_of_files(tmp_path: Path) -> None:
    """Of a pipe they would be gone by the end."""
    os.mkfifo(tmp_path / "pipe")
    options: dict[str, Any] = {"table": TABLE, "keep_columns": ()}
    with pytest.raises(UsageError, match="save it as a file first"):
        run(tmp_path / "pipe", tmp_path / "out.parquet", **options)
    assert run(table(tmp_path), tmp_path / "out.parquet", **options)


def begin_again(source: Path, output: Path, **options: Any) -> None:
    """With a start that fails, as of a model that is not there."""
    given = ConversionOptions(input=str(source), output=str(output), restart=True, **options)
    with open_conversion(given) as conversion:
        conversion.prepare()
        with Journal.open(conversion.requests, conversion.results, {}, restart=True):
            raise Killed


@pytest.mark.parametrize("output", ["out.parquet", "out.gz", "out.jsonl"])
@pytest.mark.parametrize("kill_after", [None, 5])
@pytest.mark.parametrize("work", [None, "work"])
def test_a_restart_that_fails_leaves_the_files(
    output: str, kill_after: int | None, work: str | None, tmp_path: Path
) -> None:
    source, asked = table(tmp_path), {"table": TABLE}
    options: dict[str, Any] = asked | ({"work_dir": tmp_path / work} if work else {})
    (tmp_path / "work").mkdir()
    with nullcontext() if kill_after is None else pytest.raises(Killed):
        run(source, tmp_path / output, kill_after, **options)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(Killed):
        begin_again(source, tmp_path / output, **options)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="no column"):
        begin_again(source, tmp_path / output, table=TableOptions(template="{{ nothing }}"))
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert run(source, tmp_path / output, restart=True, **options)
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith((".before", ".new"))]
    assert (tmp_path / f"{output}.1").exists() or (output != "out.jsonl" and kill_after)


def test_a_restart_lets_a_running_job_be(tmp_path: Path) -> None:
    source, output = table(tmp_path), tmp_path / "out.parquet"
    with pytest.raises(Killed):
        run(source, output, kill_after=5, table=TABLE)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    held = OutputFile(tmp_path / "out.parquet.results.jsonl")
    with pytest.raises(JournalError):
        begin_again(source, output, table=TABLE)
    held.close()
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_a_restart_over_another_ones_output_that_fails_leaves_it(tmp_path: Path) -> None:
    source, output = table(tmp_path), tmp_path / "out.parquet"
    output.write_text("my thesis")
    with pytest.raises(Killed):
        begin_again(source, output, table=TABLE)
    assert files(tmp_path) == {"in.parquet", "out.parquet"}
    assert output.read_text() == "my thesis"


def test_secrets_of_urls_are_not_stored(tmp_path: Path) -> None:
    for url, shown in (
        ("https://me:p@ss@host/a?X-Signature=b", "https://host/a"),
        ("s3://bucket/a?.jsonl", "s3://bucket/a?.jsonl"),
        ("abfs://container@account/a", "abfs://container@account/a"),
        ("hf://datasets/owner/name@main/a", "hf://datasets/owner/name@main/a"),
        ("nowhere: 'https://host/a?b=c'; try", "nowhere: 'https://host/a'; try"),
    ):
        assert without_secrets(url) == shown
    source = write_memory(f"me:word@{tmp_path.name}/in.jsonl", FORMS["plain.jsonl"](LINES))
    assert run(source, tmp_path / "out")
    assert "word" not in (tmp_path / "out.source").read_text()
