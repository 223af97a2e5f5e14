"""Shards are merged to what one job would have made, and what is not so is told."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from conversions import LINES, TABLE, Killed, run, table
from glinthawk.core.errors import UsageError
from glinthawk.files.merging import merge_outputs
from glinthawk.files.shard import Shard
from input_forms import write_form
from job_files import line, results


@pytest.fixture
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the job says without converters."""
    folder = tmp_path_factory.mktemp("plain")
    run(write_form(folder, "plain.jsonl", LINES), folder / "out")
    return results(folder / "out")


@pytest.mark.parametrize("form", ["plain.jsonl", "a.jsonl.zst", "array.json"])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_merged_shards_are_the_whole(
    form: str, ending: str, plain: list[dict[str, Any]], tmp_path: Path
) -> None:
    source = write_form(tmp_path, form, LINES)
    parts = [tmp_path / f"out-{number}{ending}" for number in (1, 2, 3)]
    for number, part in enumerate(parts, start=1):
        run(source, part, shard=Shard(number, 3))
    merged = merge_outputs(tmp_path / f"merged{ending}", parts)
    assert (merged.num_results, merged.num_errors, merged.missing) == (40, 0, ())
    if ending:
        raw = gzip.decompress((tmp_path / f"merged{ending}").read_bytes())
        (tmp_path / "merged").write_bytes(raw)
    assert results(tmp_path / "merged") == plain


def test_merged_tables_have_the_rows_in_order(tmp_path: Path) -> None:
    source = table(tmp_path, 2500)
    options: dict[str, Any] = {"table": TABLE, "keep_columns": ()}
    run(source, tmp_path / "whole.parquet", **options)
    parts = [tmp_path / f"{number}.parquet" for number in (1, 2)]
    for number, part in enumerate(parts, start=1):
        run(source, part, shard=Shard(number, 2), **options)
    merged = merge_outputs(tmp_path / "merged.parquet", parts[::-1])
    assert (merged.num_results, merged.missing) == (2500, ())
    assert pq.read_table(tmp_path / "merged.parquet") == pq.read_table(tmp_path / "whole.parquet")
    merged = merge_outputs(tmp_path / "half.parquet", parts[1:])
    assert (merged.num_results, merged.missing) == (1250, ("shard 1/2 is missing",))


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    source = write_form(tmp_path, "plain.jsonl", LINES)
    run(source, tmp_path / "1", shard=Shard(1, 3))
    with pytest.raises(Killed):
        run(source, tmp_path / "2", shard=Shard(2, 3), kill_after=10)
    there = {int(one["id"].removeprefix("batch_req_")) for one in results(tmp_path / "2")}
    lacking = [n for n in range(1, 40, 3) if n not in there]
    merged = merge_outputs(tmp_path / "merged", [tmp_path / "1", tmp_path / "2"])
    lines = ", ".join(str(n + 1) for n in lacking)
    assert merged.missing == (
        "shard 3/3 is missing",
        f"shard 2/3 lacks {len(lacking)} results: lines {lines}",
    )
    (tmp_path / "merged").unlink()
    for number in ("1", "2"):
        (tmp_path / f"{number}.source").unlink()
    merged = merge_outputs(tmp_path / "merged", [tmp_path / "1", tmp_path / "2"])
    (told,) = merged.missing
    assert "lines between others have no result, or are blank: lines 3, " in told


def test_parts_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    source = write_form(tmp_path, "plain.jsonl", LINES)
    for name, shard in (("1", Shard(1, 2)), ("2", Shard(2, 3))):
        run(source, tmp_path / name, shard=shard)
    one, two, merged = tmp_path / "1", tmp_path / "2", tmp_path / "merged"
    (tmp_path / "rubbish").write_text("{}\n")
    (tmp_path / "link").symlink_to(one)
    shutil.copy(one, tmp_path / "copy")
    shutil.copy(one, tmp_path / "again")
    shutil.copy(tmp_path / "1.source", tmp_path / "again.source")
    for parts, says in (
        ([one, two], "shards of different jobs"),
        ([one, tmp_path / "again"], "are both shard 1/2"),
        ([one, one], "is given twice"),
        ([one, tmp_path / "link"], "is given twice"),
        ([one, tmp_path / "copy"], "has a second result"),
        ([tmp_path / "rubbish"], "what is no result"),
        ([tmp_path / "nowhere"], "cannot read"),
        ([one, tmp_path / "a.parquet"], "do not go together"),
    ):
        with pytest.raises(UsageError, match=says):
            merge_outputs(merged, parts)
        assert not merged.exists()
    merged.write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        merge_outputs(merged, [one])


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3"])
def test_a_share_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write 3/16"):
        Shard.parse(text)


def test_line_numbers_count_blank_lines(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.write_bytes(b"\n" + b"\n\n".join(json.dumps(one).encode() for one in LINES))
    run(source, tmp_path / "whole")
    for number in (1, 2):
        run(source, tmp_path / f"{number}", shard=Shard(number, 2))
    merged = merge_outputs(tmp_path / "merged", [tmp_path / "1", tmp_path / "2"])
    assert merged.missing == ()
    assert results(tmp_path / "merged") == results(tmp_path / "whole")


def shards(source: object, folder: Path, ending: str, **options: Any) -> list[Path]:
    """Outputs of two."""
    parts = [folder / f"part-{number}{ending}" for number in (1, 2)]
    for number, part in enumerate(parts, start=1):
        run(source, part, shard=Shard(number, 2), **options)
    return parts


def test_tables_of_lines_with_blank_ones_are_told(tmp_path: Path) -> None:
    """Rows do not say which lines they answer."""
    texts = [json.dumps(one) for one in LINES[:6]]
    (tmp_path / "in").write_text("\n".join([texts[0], "", *texts[1:], ""]))
    parts = shards(tmp_path / "in", tmp_path, ".parquet")
    merged = merge_outputs(tmp_path / "merged.parquet", parts)
    (told,) = merged.missing
    assert "the input has blank lines" in told
    found = pq.read_table(tmp_path / "merged.parquet").column("custom_id").to_pylist()
    assert found == [f"id {n}" for n in (0, 1, 3, 5, 2, 4)]


def test_tables_without_their_records_are_told(tmp_path: Path) -> None:
    parts = shards(table(tmp_path), tmp_path, ".parquet", table=TABLE)
    (tmp_path / "part-2.parquet.source").unlink()
    (told,) = merge_outputs(tmp_path / "merged.parquet", parts).missing[1:]
    assert f"no record of a shard lies beside {parts[1]}" in told


def test_records_lie_beside_outputs_of_a_work_dir(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    options: dict[str, Any] = {"table": TABLE, "work_dir": tmp_path / "work"}
    parts = shards(table(tmp_path), tmp_path, ".parquet", **options)
    assert merge_outputs(tmp_path / "merged.parquet", parts).missing == ()
    parts = shards(table(tmp_path), tmp_path, ".jsonl", **options)
    assert merge_outputs(tmp_path / "merged.jsonl", parts).missing == ()


def test_rows_that_are_too_few_are_told(tmp_path: Path) -> None:
    parts = shards(table(tmp_path), tmp_path, ".parquet", table=TABLE)
    pq.write_table(pq.read_table(parts[1]).slice(1), parts[1])
    merged = merge_outputs(tmp_path / "merged.parquet", parts)
    assert merged.missing == ("shard 2/2 has 19 rows for 20 requests",)


@pytest.mark.parametrize("ending", [".jsonl", ".gz", ".parquet"])
def test_an_id_in_two_shards_is_told(ending: str, tmp_path: Path) -> None:
    """In one job the second one would be an error, as it is within a shard."""
    ids = ["a", "a", "b", "c", "b"]
    lines = [line(name, prompt=[1], max_tokens=1) for name in ids]
    parts = shards(write_form(tmp_path, "plain.jsonl", lines), tmp_path, ending)
    merged = merge_outputs(tmp_path / f"merged{ending}", parts)
    (told,) = merged.missing
    assert told.startswith("1 custom_ids have several answers") and told.endswith("errors: a")
    assert merged.num_errors == 1


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_parts_of_other_settings_are_refused(ending: str, tmp_path: Path) -> None:
    parts = shards(write_form(tmp_path, "plain.jsonl", LINES), tmp_path, ending)
    (journal,) = tmp_path.glob(f"part-2{ending}*.journal")
    record = json.loads(journal.read_text())
    record["resolved"]["max_model_len"] += 1
    journal.write_text(json.dumps(record))
    (told,) = merge_outputs(tmp_path / f"merged{ending}", parts).missing
    assert "where settings differ: max_model_len" in told
    record["fingerprint"]["seed"] = 77
    journal.write_text(json.dumps(record))
    with pytest.raises(UsageError, match=r"different settings: seed \w+ and 77"):
        merge_outputs(tmp_path / f"again{ending}", parts)
