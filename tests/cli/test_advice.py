"""Whatever an error advises is done here, and it helps."""

import ast
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import glinthawk
from commands import PATIENCE_S, call, line, results, start, write_lines
from families import make_model
from plans import make_plan
from result_schema import error_of
from watching import wait_until

SOURCE = Path(glinthawk.__file__).parent
TESTS = Path(__file__).parents[1]
#: What a plan says of batches is its own.
PLANNED = "run -m demo -i {tmp}/in -o {tmp}/out --plan {tmp}"
#: A size that is given need not be measured.
RUN = "run -m demo --batch-size 4 -i {tmp}/in -o {tmp}/out"
SMALL = "--tier1-kv 1MiB"
PLAN = "plan -m Llama-3.1-8B --workload 128:32 --top 1"
LARGE = "plan -m OPT-175B --workload 128:32 --top 1 --rank speed"


def _odd_heads(folder: Path) -> None:
    """A model that the native kernels do not take."""
    sizes = {"hidden_size": 48, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 12}
    make_model(folder, "llama", **sizes)


def _double(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(make_model(folder, "llama"))
    model.to(torch.float64).save_pretrained(folder / "llama")


def _small_nodes(folder: Path) -> None:
    for name, size in (("small", "256KiB"), ("large", "64MiB")):
        node = f'[[nodes]]\nworkers = ["local:1"]\nworker_kv = "{size}"\n'
        (folder / f"{name}.toml").write_text(node * 2)


def _sliced_plan(folder: Path) -> None:
    make_plan(folder / "plan.json", slices=2, workers_per_slice=1)
    node = '[[nodes]]\nworkers = ["local:1"]\n'
    (folder / "one.toml").write_text(node)
    (folder / "two.toml").write_text(node * 2)


def _plan_with_drives(folder: Path) -> None:
    make_plan(folder / "plan.json", worker_storage=16 << 20)


def _foreign_plan(folder: Path) -> None:
    make_plan(folder / "plan.json", model="Llama-2-7B")


@dataclass(frozen=True)
class Case:
    """A command that fails and says ``words``, as they stand in the code, and what it advises.
    ``before`` begins a job, which then has one more line to answer."""

    words: str
    fails: str
    helps: tuple[str, ...]
    before: tuple[str, ...] = ()
    prompt: Any = field(default_factory=lambda: [5, 6, 7])
    prepare: Any = lambda _folder: None


LONG = {"prompt": [5] * 600}
CASES = [
    Case("raise --tier1-kv", f"{RUN} {SMALL}", (f"{RUN} --tier1-kv 64MiB --retry-errors",), **LONG),
    Case(
        "(--retry-errors runs those again)",
        f"{RUN} --max-model-len 128",
        (f"{RUN} --max-model-len 1024 --retry-errors",),
        **LONG,
    ),
    Case(
        "raise --worker-kv",
        f"{RUN} --tier2 local:1 --worker-kv 1MiB",
        (f"{RUN} --tier2 local:1 --worker-kv 64MiB --retry-errors",),
        **LONG,
    ),
    Case(
        "raise worker_kv or tier1_kv in",
        f"{RUN} --cluster {{tmp}}/small.toml",
        (f"{RUN} --cluster {{tmp}}/large.toml --retry-errors",),
        prepare=_small_nodes,
        **LONG,
    ),
    Case(
        "or raise --max-model-len to at most",
        f"{RUN} --max-model-len 100",
        (f"{RUN} --max-model-len 1024 --retry-errors",),
        **LONG,
    ),
    Case(
        "with --retry-errors, which takes a longer one",
        f"{RUN} --max-model-len 128",
        (f"{RUN} --max-model-len 128 --retry-errors", f"{RUN} --max-model-len 128"),
        before=(f"{RUN} --max-model-len 64",),
    ),
    Case(
        "begin anew with --restart (the old output is moved aside) or give another -o",
        f"{RUN} --seed 1",
        (f"{RUN}2 --seed 1", f"{RUN} --seed 1 --restart"),
        before=(RUN,),
    ),
    Case(
        "begin anew with --restart (it is moved aside) or give another -o",
        RUN,
        (f"{RUN}2", f"{RUN} --restart"),
        prepare=lambda folder: (folder / "out").write_text("my thesis\n"),
    ),
    Case(
        "--errors: {} would have lines as they stand; give a name in .jsonl",
        f"{RUN} --errors {{tmp}}/failed.gz",
        (f"{RUN} --errors {{tmp}}/failed.jsonl",),
    ),
    Case("--split is for a dataset, and {} is none; leave it out", f"{RUN} --split test", (RUN,)),
    Case(
        "--restart runs every line again; give that or --retry-errors",
        f"{RUN} --restart --retry-errors",
        (f"{RUN} --restart", f"{RUN} --retry-errors"),
    ),
    Case(
        "give --tier2 a number of workers that divides the KV heads, or use --split-attention",
        f"{RUN} --worker-kv 8MiB --tier2 local:3 --split-attention heads",
        (
            f"{RUN} --worker-kv 8MiB --tier2 local:2 --split-attention heads",
            f"{RUN}2 --worker-kv 8MiB --tier2 local:3 --split-attention tokens",
        ),
    ),
    Case("give at most that", f"{RUN} --max-model-len 2000", (f"{RUN} --max-model-len 1024",)),
    Case(
        "choose a smaller type with --dtype",
        f"{RUN} -m {{tmp}}/llama",
        (f"{RUN} -m {{tmp}}/llama --dtype float32",),
        prepare=_double,
    ),
    Case(
        "give --xcache-memory at least that for each worker",
        f"{RUN} --tier2 local:1 --worker-kv 8MiB --xcache 0.5 --xcache-memory 1KiB",
        (f"{RUN} --tier2 local:1 --worker-kv 8MiB --xcache 0.5 --xcache-memory 1MiB",),
    ),
    Case(
        "say with --xcache-memory how much it may take, or choose a smaller --xcache",
        f"{RUN} --tier2 local:1 --worker-kv 8MiB --xcache 0.99999999",
        (
            f"{RUN} --tier2 local:1 --worker-kv 8MiB --xcache 0.99999999 --xcache-memory 64MiB",
            f"{RUN}2 --tier2 local:1 --worker-kv 8MiB --xcache 0.5",
        ),
    ),
    Case(
        "the native kernels, which do not take this model's head sizes; use",
        f"{RUN} -m {{tmp}}/llama --tier2 local:1 --worker-kv 8MiB --kv-placement fetch",
        (f"{RUN} -m {{tmp}}/llama --tier2 local:1 --worker-kv 8MiB --kv-placement near",),
        prepare=_odd_heads,
    ),
    Case(
        "or the run without --worker-storage",
        f"{RUN} -m {{tmp}}/llama --tier2 local:1 --worker-kv 8MiB --worker-storage {{tmp}}:8MiB",
        (f"{RUN} -m {{tmp}}/llama --tier2 local:1 --worker-kv 8MiB",),
        prepare=_odd_heads,
    ),
    Case(
        "or the run with a smaller --worker-kv",
        f"{RUN} --tier2 local:1 --worker-kv 1000TiB",
        (f"{RUN} --tier2 local:1 --worker-kv 8MiB",),
    ),
    Case(
        "give a smaller --tier1-kv", f"{RUN} --tier1-kv 1000TiB", (f"{RUN} --tier1-kv 8MiB",)
    ),
    Case(
        "in other bits than to one; leave it out, or use workers on CPUs",
        f"{RUN} -m {{tmp}}/llama --batch-invariant",
        (f"{RUN} -m {{tmp}}/llama",),
        prepare=_odd_heads,
    ),
    Case(
        "make one with `glinthawk plan -m {} --out FILE`",
        f"{PLANNED}/plan.json",
        ("plan -m demo --workload 8:8 --tier1 T4 --rank speed --out {tmp}/new.json",
         f"{PLANNED}/new.json"),
        prepare=_foreign_plan,
    ),
    Case(
        "name their machines with --cluster FILE",
        f"{PLANNED}/plan.json",
        (f"{PLANNED}/plan.json --cluster {{tmp}}/two.toml",),
        prepare=_sliced_plan,
    ),
    Case(
        "name a folder on each drive with --worker-storage DIR:SIZE",
        f"{PLANNED}/plan.json",
        (f"{PLANNED}/plan.json --worker-storage {{tmp}}:16MiB",),
        prepare=_plan_with_drives,
    ),
    Case(
        "name a machine of the catalogue with --tier1",
        PLAN,
        (f"{PLAN} --tier1 A100-80G",),
    ),
    Case(
        "give a shorter --workload",
        "plan -m OPT-30B --workload 2000:99 --tier1 A100-80G --top 1",
        ("plan -m OPT-30B --workload 200:9 --tier1 A100-80G --top 1",),
    ),
    Case(
        "give it dollars_per_hour in a file for --catalogue, or use --rank speed",
        f"{PLAN} --tier1 zen4-2",
        (f"{PLAN} --tier1 zen4-2 --rank speed",),
    ),
    Case(
        "Offer more or larger machines (--tier1-count, --tier2-count)",
        f"{LARGE} --tier1 T4",
        (f"{LARGE} --tier1 A100-80G --tier1-count 8",),
    ),
]  # fmt: skip

#: Advice that is followed by another test.
ELSEWHERE = {
    "workers may join: glinthawk worker --join": (
        "equivalence/test_membership.py::test_one_worker_joins_and_another_leaves"
    ),
    "--join goes over tcp": "launch/test_joiners.py::test_what_no_worker_can_join",
    "--listen must be {}://": "launch/test_joiners.py::test_what_no_worker_can_join",
    "is out of the run's reach: --listen": (
        "launch/test_joiners.py::test_a_worker_that_listens_everywhere_says_where_it_is_reached"
    ),
    "and no records of a server; give a new folder, or the one of an earlier server": (
        "serve/test_access.py::test_a_folder_with_other_things_in_it_is_left_alone"
    ),
    "of whole groups of {} inputs; give a smaller --group-size": (
        "cli/test_quantize.py::test_what_cannot_be_done"
    ),
    "give both, or neither": ("serve/test_access.py::test_options_that_cannot_be"),
    "--api-key: a key has printable letters": (
        "serve/test_access.py::test_keys_have_names_that_stay"
    ),
    "two names have one key; give each its own": (
        "serve/test_access.py::test_options_that_cannot_be"
    ),
    "--data: another server uses {}": (
        "serve/test_access.py::test_a_folder_that_another_server_has"
    ),
    "give another --host or --port": ("serve/test_access.py::test_options_that_cannot_be"),
    "of another version of glinthawk; give another --data": (
        "serve/test_record_store.py::test_records_of_another_version_are_refused"
    ),
    "use --reranker none to compare embeddings": (
        "cli/test_pooling_runs.py::test_pairs_that_a_tokenizer_cannot_judge_can_be_compared"
    ),
    "say it with --tool-call-parser": (
        "jobs/test_tool_calls.py::test_a_parser_is_needed_where_nobody_knows_the_way"
    ),
    "begin anew with --restart, or give another -o": (
        "files/test_conversion.py::test_an_output_of_somebody_else_stays"
    ),
    "has results of {}; give another --work-dir": (
        "files/test_conversion.py::test_a_url_is_written_at_the_end"
    ),
    "--keep-columns reads the input again; save it as a file first": (
        "files/test_conversion.py::test_columns_are_kept_of_files"
    ),
    "has the splits {}; give --split one": (
        "files/test_tables.py::test_a_saved_dataset_with_splits_asks_for_one"
    ),
    "say what of a row is asked, with --prompt-column": (
        "cli/test_files.py::test_every_table_has_the_same_answers"
    ),
    "go with {}; lines of a batch file bring their own": (
        "cli/test_files.py::test_every_table_has_the_same_answers"
    ),
    "messages are a chat; leave --endpoint out": (
        "files/test_tables.py::test_messages_are_lists_or_their_json"
    ),
    "--keep-columns is for a table as -i": (
        "cli/test_files.py::test_a_job_that_is_done_says_so_and_another_one_is_refused"
    ),
    "make them alike, or leave --keep-columns out": (
        "files/test_answer_table.py::test_columns_that_cannot_be_kept_are_named"
    ),
    "rename it, or name the ones to keep": (
        "files/test_answer_table.py::test_columns_that_cannot_be_kept_are_named"
    ),
    "cut it off there with `truncate": "cli/test_advice.py::test_a_spoiled_output_is_cut_off",
    "start workers with a larger --kv": "cli/test_advice.py::test_a_worker_is_started_with_more",
    "read its files, then give --trust-remote-code": (
        "cli/test_remote_code.py::test_it_runs_for_those_who_say_so"
    ),
    "--report needs matplotlib": (
        "cli/test_plan.py::test_a_report_without_its_library_is_refused_before_any_work"
    ),
    "leave --tier1, --tier2, --catalogue out": (
        "cli/test_plan.py::test_a_profile_is_measured_and_planned_with"
    ),
    "is not a plan{}; write one with `glinthawk plan --out`": (
        "cli/test_plan.py::test_run_follows_a_plan_and_answers_alike"
    ),
    "change the file, or plan with --tier1-count": (
        "cli/test_plan.py::test_a_cluster_file_with_the_plans_numbers_is_taken"
    ),
    "give --tier1 and --tier2 of the catalogue, or --profile": (
        "cli/test_plan.py::test_simulate_asks_for_machines"
    ),
    "give --tier2 a machine with more storage": (
        "cli/test_plan.py::test_simulate_needs_drives_where_the_plan_has_them"
    ),
    "measure it with `glinthawk profile --kv-dtype {}`": (
        "cli/test_plan.py::test_a_profile_is_measured_and_planned_with"
    ),
    "say which keys may connect: --allow PUBLIC_KEY": (
        "cli/test_run.py::test_a_worker_by_address_serves_who_knows_its_key"
    ),
    "let it --allow yours (`glinthawk keygen`)": (
        "cli/test_run.py::test_a_worker_by_address_serves_who_knows_its_key"
    ),
    "say what they must know: --password-file FILE": (
        "cli/test_run.py::test_a_worker_on_a_trusted_network_serves_who_knows_its_password"
    ),
    "write it into a file: --password-file FILE": (
        "cli/test_run.py::test_a_worker_on_a_trusted_network_serves_who_knows_its_password"
    ),
    "the password that of its --password-file": (
        "cli/test_run.py::test_a_worker_on_a_trusted_network_serves_who_knows_its_password"
    ),
    "see `{} --help` for what there is": (
        "cli/test_help.py::test_run_has_its_options_in_panels_the_common_ones_first"
    ),
    "see --story, or record the whole run with": (
        "cli/test_recorded_runs.py::test_a_run_is_recorded_and_run_again"
    ),
    "give one that `glinthawk run --event-log` wrote": (
        "cli/test_recorded_runs.py::test_a_run_is_recorded_and_run_again"
    ),
    "(--wait-for-workers waits longer)": (
        "cli/test_advice.py::test_a_run_whose_worker_is_gone_goes_on_with_another"
    ),
}

HANDED_IN = "cli/test_handed_in.py::test_"
ELSEWHERE |= {
    "is no address; write it like http://": HANDED_IN + "what_cannot_be_is_told",
    "is no `glinthawk serve`": HANDED_IN + "another_kind_of_server_is_told",
    "wants one of its keys; give it with --api-key": HANDED_IN + "what_cannot_be_is_told",
    "start it, or give another --server": HANDED_IN + "what_cannot_be_is_told",
    "give -m a model, or --server": HANDED_IN + "what_cannot_be_is_told",
    "is the server's own with --server": HANDED_IN + "what_cannot_be_is_told",
    "the lines are handed in at": HANDED_IN + "begun_anew_it_cancels_what_was_handed_in",
    "is not what was handed in at": HANDED_IN + "begun_anew_it_cancels_what_was_handed_in",
    "is no record of batches": HANDED_IN + "begun_anew_it_cancels_what_was_handed_in",
    "with --restart it is cancelled there": HANDED_IN + "begun_anew_it_cancels_what_was_handed_in",
}

#: Advice for machines, or for peers, that tests have not.
NOT_HERE = {
    "give --listen this machine's address": "a machine without a way to the run",
    "is no result at byte {}; begin anew with --restart": "results that change under the run",
    "there is no CUDA device here; use --device cpu or auto": "the default is auto",
    "there is no GPU in the Ray cluster; use --device cpu or auto": "the default is auto",
    "`kv_placement` fetch attends on a CPU: give --device cpu": "a GPU",
    "--cluster ray needs Ray": "a machine without Ray",
    "give smaller --slices, --workers-per-slice or --worker-kv": "a Ray cluster of several",
    "use machines alike, or leave --batch-invariant out": "workers of other kinds",
    "come to different bits; leave it out": "workers of other kinds",
    "rows that run together change one another's numbers": "other processors",
    "Run it with --xcache 0": "a model whose keys look at other tokens",
    "use a smaller --batch-size": "a view of 2**24 pages",
    "run with --kv-placement near": "a worker whose kernels are not those of its Tier 1",
    "give a folder on a drive that takes direct reads": "a drive that does not",
    "measure it with `glinthawk profile --storage DIR`": "minutes of a drive",
    "the profile has no drive": "minutes of a drive",
    "or was silent for {} s (--worker-timeout)": "a network that is silent for long",
    "--storage goes with --profile": "minutes of a profile",
    "a profile is of one worker: --tier2 local:1": "minutes of a profile",
}

#: What names an option as the place of a fault, or tells of a run, and advises nothing.
NO_ADVICE = [
    "float16 is used, as with --dtype float16",
    *("More --text-processes help", "start more workers, or give more by", "by --kv-dtype int8"),
    *("hide the way to them", "is no HOST:PORT"),
    "--group-size must be a multiple of 8",
    "--window must be at least",
    "Required without --server.",
    "without --api-key, everybody who reaches",
    *("bytes (--max-body-size)", "bytes here (--max-file-size)"),
    *("may be (--max-batch-lines)", "--data: cannot use"),
    *(
        "--event-log: cannot write",
        "--trace: cannot write",
        "--stats-json: cannot write",
        "--errors: cannot write",
        "--config: cannot read",
        "--bandwidth must be",
        "--slow {}",
    ),
    *("--kv-dtype must be one of", "the best plan: ", "{}: plan with `glinthawk plan"),
    *("--xcache is off: ", "--xcache {}: Tier 1 makes", "the bytes of K and V; --xcache 0"),
    *("--endpoint is one of", "--body is not a JSON object", "--body: {}"),
    *("--template: {}", "--template: row {}", "--shard: {} is no share"),
    *("--keep-columns: there is no column", "--prompt-column, --messages-column or --template"),
    *("--lora {}: there is no", "--lora {} adapts {}, and only", "--lora {} was not trained for"),
    *("more sequences wait than fit", "too few sequences to hide it"),
]


def _sentences() -> Iterator[str]:
    """Texts in the code that name an option, but for help texts and docstrings."""
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        skipped = {id(part) for node in ast.walk(tree) for part in _help(node)}
        for node in ast.walk(tree):
            if id(node) in skipped:
                continue
            if isinstance(node, ast.JoinedStr):
                skipped |= {id(part) for part in ast.walk(node)}
            text = _text(node)
            if " " in text and re.search("--[a-z]", text):
                yield text


def _help(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("Option", "Argument"):
        yield from ast.walk(node)
    if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
        yield from (
            part for one in node.body[:1] if isinstance(one, ast.Expr) for part in ast.walk(one)
        )


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) or "{}" for part in node.values)
    return str(node.value) if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def test_no_advice_is_forgotten() -> None:
    known = [case.words for case in CASES] + [*ELSEWHERE, *NOT_HERE]
    sentences = list(_sentences())
    assert len(sentences) > 50
    new = [s for s in sentences if not any(words in s for words in [*known, *NO_ADVICE])]
    assert not new
    gone = [words for words in [*known, *NO_ADVICE] if not any(words in s for s in sentences)]
    in_pieces = _all_text()
    assert [words for words in gone if "{}" in words or words not in in_pieces] == []


def _all_text() -> str:
    """What stands in the code in several pieces."""
    return "".join(
        _text(n) for p in SOURCE.rglob("*.py") for n in ast.walk(ast.parse(p.read_text()))
    )


@pytest.mark.parametrize("node", sorted(set(ELSEWHERE.values())))
def test_what_follows_it_elsewhere_is_there(node: str) -> None:
    file, name = node.split("::")
    assert f"\ndef {name}(" in (TESTS / file).read_text()


@pytest.mark.parametrize("case", CASES, ids=[case.words[:40] for case in CASES])
def test_what_is_advised_helps(case: Case, tmp_path: Path) -> None:
    write_lines(tmp_path / "in", [line("a", prompt=case.prompt, max_tokens=2)])
    case.prepare(tmp_path)
    for command in case.before:
        assert _call(command, tmp_path).returncode == 0
    if case.before:
        write_lines(
            tmp_path / "in", [line(name, prompt=case.prompt, max_tokens=2) for name in "ab"]
        )
    failed = _call(case.fails, tmp_path)
    assert failed.returncode != 0
    said = " ".join((failed.stderr + _errors(tmp_path / "out")).split())
    pattern = re.escape(case.words).replace(r"\{\}", ".*")
    assert re.search(pattern, said), said
    for command in case.helps:
        helped = _call(command, tmp_path)
        assert helped.returncode == 0, (command, helped.stderr)


def _call(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return call(*shlex.split(command.format(tmp=folder)))


def _errors(output: Path) -> str:
    if not output.exists() or not output.read_bytes().startswith(b"{"):
        return ""
    return " ".join(found["message"] for r in results(output).values() if (found := error_of(r)))


def test_a_text_that_the_model_cannot_take_is_told_no_way(tmp_path: Path) -> None:
    write_lines(tmp_path / "in", [line("a", prompt=[5] * 2000, max_tokens=2)])
    assert _call(RUN, tmp_path).returncode == 1
    assert "the model takes no more, so shorten it" in _errors(tmp_path / "out")
    assert "--" not in _errors(tmp_path / "out")


def test_a_spoiled_output_is_cut_off(tmp_path: Path) -> None:
    lines = [line(str(number), prompt=[5, number], max_tokens=2) for number in range(3)]
    write_lines(tmp_path / "in", lines)
    assert _call(RUN, tmp_path).returncode == 0
    before = results(tmp_path / "out")
    kept = (tmp_path / "out").read_bytes().splitlines(keepends=True)
    (tmp_path / "out").write_bytes(kept[0] + b"rubbish\n" + kept[2])
    failed = _call(RUN, tmp_path)
    assert failed.returncode == 2
    (advice,) = re.findall("`(truncate [^`]*)`", failed.stderr)
    subprocess.run(shlex.split(advice), check=True)
    assert _call(RUN, tmp_path).returncode == 0
    assert results(tmp_path / "out") == before


def test_a_worker_is_started_with_more(tmp_path: Path) -> None:
    write_lines(tmp_path / "in", [line("a", prompt=[5] * 600, max_tokens=2)])
    address = f"ipc://{tmp_path}/worker"
    for size, status, more in (("1MiB", 1, ""), ("64MiB", 0, "--retry-errors")):
        with start("worker", "--listen", address, "--kv", size, "--quiet") as worker:
            try:
                wait_until(lambda: (tmp_path / "worker").exists())
                assert _call(f"{RUN} --tier2 {address} {more}", tmp_path).returncode == status
            finally:
                worker.terminate()
                worker.wait(PATIENCE_S)
        assert ("start workers with a larger --kv" in _errors(tmp_path / "out")) == bool(status)


def test_a_run_whose_worker_is_gone_goes_on_with_another(tmp_path: Path) -> None:
    """Without waiting the run ends, with waiting it goes on, and the same command resumes it."""
    lines = [line(str(n), prompt=[5, n], max_tokens=120, ignore_eos=True) for n in range(40)]
    write_lines(tmp_path / "in", lines)
    address = f"ipc://{tmp_path}/worker"
    worker = ["worker", "--listen", address, "--kv", "64MiB", "--quiet"]
    command = ["run", "-m", "demo", "-i", tmp_path / "in", "-o", tmp_path / "out"]
    command += ["--tier2", address, "--batch-size", 4]
    with start(*worker) as first:
        wait_until(lambda: (tmp_path / "worker").exists())
        with start(*command, "--wait-for-workers", 0.5) as run:
            wait_until(lambda: (tmp_path / "out").exists() and (tmp_path / "out").stat().st_size)
            first.kill()
            _, said = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 2
    assert "(--wait-for-workers waits longer)" in said
    with start(*worker) as second:
        assert call(*command).returncode == 0
        second.terminate()
        second.wait(PATIENCE_S)
    assert len(results(tmp_path / "out")) == 40
