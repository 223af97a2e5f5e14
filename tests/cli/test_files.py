"""``run`` with other files than JSONL, and ``merge``."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from commands import EXAMPLES, PATIENCE_S, call, kill, results, start
from glinthawk.files import extras
from input_forms import FORMS, write_form, write_memory
from table_forms import TABLES
from watching import wait_until

ROWS = [{"id": f"r{n}", "text": f"The list type {n}", "n": n} for n in range(6)]
ASKED = ["--prompt-column", "text", "--id-column", "id", "--max-tokens", 3, "--temperature", 0]
#: From before Python is up to the middle of the job.
_LONGEST_S = 6.0


def run(source: object, output: object, *more: object) -> subprocess.CompletedProcess[str]:
    return call("run", "-m", "demo", "--quiet", "-i", source, "-o", output, *more)


def answers(output: Path) -> list[Any]:
    """Without times, in the input's order."""
    found = results(output)
    return [found[name] for name in sorted(found)]


@pytest.mark.parametrize("form", [form for form in FORMS if form != "plain.jsonl"])
def test_every_form_in_has_the_answers_of_jsonl(form: str, tmp_path: Path) -> None:
    lines = [json.loads(text) for text in EXAMPLES.read_text().splitlines()[:3]]
    for line in lines:
        line["body"]["max_tokens"] = 2
    for name in ("plain.jsonl", form):
        done = run(write_form(tmp_path, name, lines), tmp_path / f"out-{name}.jsonl")
        assert done.returncode == 0, done.stderr
    assert answers(tmp_path / f"out-{form}.jsonl") == answers(tmp_path / "out-plain.jsonl.jsonl")


@pytest.mark.parametrize("form", [form for form in TABLES if form != "rows.jsonl"])
def test_every_table_has_the_same_answers(form: str, tmp_path: Path) -> None:
    for name in ("rows.jsonl", form):
        TABLES[name](tmp_path / name, ROWS)
        done = run(tmp_path / name, tmp_path / f"out-{name}.jsonl", *ASKED)
        assert done.returncode == 0, done.stderr
    assert answers(tmp_path / f"out-{form}.jsonl") == answers(tmp_path / "out-rows.jsonl.jsonl")


def test_a_job_that_is_done_says_so_and_another_one_is_refused(tmp_path: Path) -> None:
    TABLES["rows.parquet"](tmp_path / "in.parquet", ROWS)
    arguments = ["run", "-m", "demo", "-i", tmp_path / "in.parquet", "-o", tmp_path / "o.parquet"]
    arguments += [*ASKED, "--keep-columns", "text,n"]
    first, again = call(*arguments), call(*arguments)
    assert first.returncode == again.returncode == 0
    assert f"all of it is in {tmp_path}/o.parquet" in first.stderr
    assert "every line has its result already" in again.stderr
    other = call(*arguments, "--seed", 1)
    assert other.returncode == 2 and "seed was 0 and is 1" in other.stderr
    table = pq.read_table(tmp_path / "o.parquet")
    assert table.select(["text", "n", "custom_id"]).to_pylist() == [
        {"text": row["text"], "n": row["n"], "custom_id": row["id"]} for row in ROWS
    ]


def test_errors_are_in_the_table_and_may_be_retried(tmp_path: Path) -> None:
    pq.write_table(pa.table({"p": [[5], [5] * 200]}), tmp_path / "in.parquet")
    asked = ["--prompt-column", "p", "--endpoint", "completions", "--max-tokens", 2]
    short = run(tmp_path / "in.parquet", tmp_path / "o.parquet", *asked, "--max-model-len", 99)
    assert short.returncode == 1
    first, second = pq.read_table(tmp_path / "o.parquet").to_pylist()
    assert first["error"] is None and "--max-model-len" in second["error"]
    told = [*asked, "--max-model-len", 99, "--errors", tmp_path / "failed.jsonl"]
    for _ in range(2):
        again = run(tmp_path / "in.parquet", tmp_path / "o.parquet", *told)
        assert again.returncode == 1
        assert (tmp_path / "failed.jsonl").read_text().count("\n") == 1
        (tmp_path / "failed.jsonl").unlink()
    loud = [word for word in again.args[1:] if word != "--quiet"]
    assert "--max-model-len" in call(*loud).stderr.partition("1 of them errors")[2]
    more = ["--retry-errors", "--max-model-len", 999]
    assert run(tmp_path / "in.parquet", tmp_path / "o.parquet", *asked, *more).returncode == 0
    assert pq.read_table(tmp_path / "o.parquet").column("error").null_count == 2
    (tmp_path / "failed.jsonl").write_text("of an earlier run")
    told = [*asked, "--max-model-len", 999, "--errors", tmp_path / "failed.jsonl"]
    assert run(tmp_path / "in.parquet", tmp_path / "o.parquet", *told).returncode == 0
    assert (tmp_path / "failed.jsonl").read_bytes() == b""


def test_urls_are_no_paths(tmp_path: Path) -> None:
    lines = [json.loads(text) for text in EXAMPLES.read_text().splitlines()[:2]]
    source = write_memory("job/in.jsonl", FORMS["plain.jsonl"](lines))
    done = run(source, "memory://job/out.jsonl", "--work-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(results(tmp_path / "out.jsonl.results.jsonl")) == 2
    missing = run("s3://bucket/in.jsonl", tmp_path / "out")
    assert missing.returncode == 2
    assert "s3://bucket/in.jsonl" in missing.stderr and "s3fs" in missing.stderr
    assert missing.stderr.count("\n") == 1


def test_standard_input_and_output(tmp_path: Path) -> None:
    """What comes by a pipe can be resumed; what went by one is gone."""
    lines = EXAMPLES.read_text().splitlines(keepends=True)[:2]
    command = [sys.executable, "-m", "glinthawk", "run", "-m", "demo", "--quiet", "-i", "-", "-o"]

    def pipe(output: str, text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, output], input=text, capture_output=True, text=True, timeout=PATIENCE_S
        )

    done = pipe("-", "".join(lines))
    assert done.returncode == 0, done.stderr
    (tmp_path / "out").write_text(done.stdout)
    assert len(results(tmp_path / "out")) == 2
    kept = str(tmp_path / "kept")
    assert pipe(kept, lines[0]).returncode == 0
    assert pipe(kept, "".join(lines)).returncode == 0
    assert len(results(tmp_path / "kept")) == 2
    nothing = pipe(kept, "")
    assert nothing.returncode == 0 and not nothing.stderr
    assert not list(tmp_path.glob("*.requests.jsonl"))
    other = pipe(kept, lines[1])
    assert other.returncode == 2 and "no longer begins with" in other.stderr


def test_shards_are_merged_and_a_missing_one_is_named(tmp_path: Path) -> None:
    TABLES["rows.csv"](tmp_path / "in.csv", ROWS)
    parts = [tmp_path / "1.jsonl", tmp_path / "2.jsonl"]
    for number, part in enumerate(parts, start=1):
        assert run(tmp_path / "in.csv", part, *ASKED, "--shard", f"{number}/2").returncode == 0
    assert run(tmp_path / "in.csv", tmp_path / "whole", *ASKED).returncode == 0
    half = call("merge", tmp_path / "half", parts[0])
    assert half.returncode == 1 and "shard 2/2 is missing" in half.stderr
    done = call("merge", tmp_path / "merged", *parts)
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "merged") == results(tmp_path / "whole")


def test_what_cannot_be_is_one_line_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    TABLES["rows.csv"](tmp_path / "in.csv", ROWS)
    source, output = tmp_path / "in.csv", tmp_path / "out"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")

    def refused(*words: object) -> str:
        done = call("run", "-m", "nowhere/no-model", *words)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert not output.exists()
        return done.stderr

    assert "say what of a row is asked" in refused("-i", source, "-o", output)
    asked = ["-i", source, "-o", output, "--template"]
    assert "has no column txet" in refused(*asked, "{{ txet }}")
    assert "--body is not a JSON object" in refused(*asked, "{{ text }}", "--body", "{")
    assert "--body: max_token is not supported" in refused(
        *asked, "{{ text }}", "--body", '{"max_token": 1}'
    )
    assert "--endpoint is one of chat, completions" in refused(*asked, "a", "--endpoint", "both")
    assert "--split is for a dataset" in refused(*asked, "a", "--split", "train")
    for name in ("failed.gz", "failed.parquet"):
        assert "--errors: " in refused(*asked, "a", "--errors", tmp_path / name)
    for name in ("a.csv", "a.TSV", "a.jsonl.bz2", "a.xz"):
        assert "give a name in .jsonl" in refused("-i", source, "-o", tmp_path / name)
    secret = refused("-i", "nosuch://me:pass@host/a?key=word", "-o", output)
    assert "nosuch://host/a" in secret and "pass" not in secret and "word" not in secret
    assert "write 3/16" in refused(*asked, "a", "--shard", "3")
    hub = ["-i", "nobody/nothing", "-o", output, "--prompt-column", "text"]
    assert "is no file here, and as a dataset the hub does not give it" in refused(*hub)
    monkeypatch.setattr(extras, "import_module", lambda name: __import__(f"no_{name}"))
    assert "pip install 'glinthawk[files]'" in refused("-i", source, "-o", tmp_path / "a.parquet")
    assert "pip install 'glinthawk[files]'" in refused("-i", source, "-o", tmp_path / "a.zst")
    assert "pip install 'glinthawk[datasets]'" in refused(*hub)


@pytest.mark.parametrize(
    ("kills", "rows"), [(3, 200), pytest.param(10, 900, marks=pytest.mark.matrix)]
)
def test_a_table_killed_again_and_again_is_as_if_undisturbed(
    kills: int, rows: int, tmp_path: Path
) -> None:
    texts = [f"The list type {number}" for number in range(rows)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "in.parquet")
    asked = ["--template", "Say: {{ text }}", "--max-tokens", 40, "--keep-columns", "all"]
    asked += ["--batch-size", 8]
    assert run(tmp_path / "in.parquet", tmp_path / "once.parquet", *asked).returncode == 0
    output = tmp_path / "killed.parquet"
    chance, num_in_the_middle = random.Random(0), 0
    for number in range(kills):
        command = ["run", "-m", "demo", "--quiet", "-i", tmp_path / "in.parquet", "-o", output]
        process = start(*command, *asked)
        journal = tmp_path / "killed.parquet.results.jsonl"
        _wait(process, journal, None if number % 2 == 0 else chance.uniform(0, _LONGEST_S))
        num_in_the_middle += process.poll() is None and _size(journal) > 0
        try:
            kill(process)
        except ProcessLookupError:  # on a fast machine it has ended
            process.communicate()
    assert num_in_the_middle > kills // 4
    done = run(tmp_path / "in.parquet", output, *asked)
    assert done.returncode == 0, done.stderr
    assert pq.read_table(output) == pq.read_table(tmp_path / "once.parquet")
    assert pq.read_table(output).column("text").to_pylist() == texts
    assert not list(tmp_path.glob("*.new")) and not list(tmp_path.glob("*.requests.jsonl"))


def _wait(process: subprocess.Popen[str], journal: Path, most_s: float | None) -> None:
    """Until there are new results, or for a while: any moment will do."""
    before = _size(journal)
    if most_s is None:
        wait_until(lambda: _size(journal) > before or process.poll() is not None)
        return
    try:
        process.wait(most_s)
    except subprocess.TimeoutExpired:
        return


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
