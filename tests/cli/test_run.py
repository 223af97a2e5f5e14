"""``glinthawk run`` as a user meets it: real processes, real files, real signals."""

import json
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from commands import (
    EXAMPLES,
    PATIENCE_S,
    call,
    examples,
    glinthawk,
    line,
    results,
    run_arguments,
    start,
    write_lines,
)
from families import make_model
from result_schema import error_of
from watching import wait_until

STATS = {
    *("requests", "failed", "prompt_tokens", "completion_tokens", "seconds", "tokens_per_second"),
    *("tier1_busy", "tier2_busy", "wire_decode_bytes_out", "wire_decode_bytes_back"),
    *(
        "wire_prefill_bytes",
        "kv_bytes_peak",
        "xcache_bytes_peak",
        "preemptions",
        "repeated_tokens",
        "prompt_tokens_shared",
    ),
    *("kv_full_share", "input_share", "limit", "drafted_tokens", "accepted_tokens"),
}


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def check_trace(events: list[dict]) -> None:
    """Both tiers are there, and a lane of Tier 1 does one thing at a time."""
    processes = {e["pid"]: e["args"]["name"] for e in events if e["ph"] == "M"}
    assert set(processes.values()) == {"tier 1", "worker 1", "worker 2"}
    intervals = [e for e in events if e["ph"] == "X"]
    assert {e["pid"] for e in intervals} == processes.keys()
    tier1 = sorted((e for e in intervals if processes[e["pid"]] == "tier 1"), key=lambda e: e["ts"])
    for before, after in pairwise(tier1):
        assert before["ts"] + before["dur"] <= after["ts"] + 1


def test_two_tiers_answer_every_example_as_one_tier_does(tmp_path: Path) -> None:
    two, one, stats = tmp_path / "two.jsonl", tmp_path / "one.jsonl", tmp_path / "stats.json"
    trace = tmp_path / "trace.json"
    done = glinthawk(*run_arguments(EXAMPLES, two, "--stats-json", stats, "--trace", trace))
    assert done.returncode == 0, done.stderr
    assert "limit: " in done.stderr
    check_trace(json.loads(trace.read_text()))
    assert str(two) in done.stderr
    assert "worker 2: busy" in done.stderr
    assert call("run", "-m", "demo", "-i", EXAMPLES, "-o", one).returncode == 0
    assert results(two) == results(one)
    assert len(results(two)) == count_lines(EXAMPLES) >= 100
    numbers = json.loads(stats.read_text())
    assert numbers.keys() == STATS
    assert numbers["requests"] == len(results(two))
    assert len(numbers["tier2_busy"]) == 2
    assert numbers["kv_bytes_peak"] > 0


def test_an_x_cache_changes_no_answer_and_is_no_other_job(tmp_path: Path) -> None:
    """The same output is gone on with, and the same lines come of it."""
    plain, with_x, stats = tmp_path / "plain.jsonl", tmp_path / "x.jsonl", tmp_path / "stats.json"
    source = examples(tmp_path / "in.jsonl", 24)
    run = ("run", "-m", "demo", "-i", source, "--tier2", "local:2", "--dtype", "float32")
    x = ("--xcache", "0.5", "--xcache-memory", "64MiB", "--stats-json", stats)
    assert call(*run, "-o", plain).returncode == 0
    done = call(*run, "-o", with_x, *x)
    assert done.returncode == 0, done.stderr
    assert "x-cache peak" in done.stderr
    assert results(with_x) == results(plain)
    assert json.loads(stats.read_text())["xcache_bytes_peak"] > 0
    again = call(*run, "-o", plain, *x)
    assert again.returncode == 0, again.stderr
    assert count_lines(plain) == count_lines(source)


def test_standard_output_takes_results_and_leaves_no_journal(tmp_path: Path) -> None:
    source, output = write_lines(tmp_path / "in", [line("a", prompt="a")]), tmp_path / "out"
    run = ("run", "-m", "demo", "-i", source, "-o", "/dev/stdout")
    piped = glinthawk(*run)
    assert json.loads(piped.stdout)["custom_id"] == "a"
    command = [sys.executable, "-m", "glinthawk", *map(str, run)]
    with output.open("wb") as file:
        subprocess.run(command, stdout=file, check=True, timeout=PATIENCE_S)
    assert output.read_text() == piped.stdout.replace(
        str(json.loads(piped.stdout)["response"]["body"]["created"]),
        str(json.loads(output.read_text())["response"]["body"]["created"]),
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    assert not Path("/dev/stdout.journal").exists()


def test_the_memory_of_the_machine_decides_no_answer(tmp_path: Path) -> None:
    """An answer without max_tokens ends with the model's length, or it is an error; types that
    ``auto`` comes to are those of the whole job."""
    chat = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    open_end = {**chat, "ignore_eos": True, "max_tokens": None}
    lines = [line("open", **open_end), line("short", **chat)]
    source, one, two = write_lines(tmp_path / "in", lines), tmp_path / "1", tmp_path / "2"
    run = ("run", "-m", "demo", "-i", source, "--max-model-len", 900)
    assert call(*run, "-o", one, "--tier1-kv", "1MiB").returncode == 1
    assert call(*run, "-o", two, "--tier1-kv", "64MiB").returncode == 0
    (small, _), (large, _) = (sorted(results(each).values(), key=str) for each in (one, two))
    assert small["error"]["code"] == "kv_memory_exceeded"
    assert large["response"]["body"]["usage"]["total_tokens"] == 900
    write_lines(tmp_path / "in", [*lines, line("more", **chat)])
    other = call(*run, "-o", two, "--dtype", "bfloat16")
    assert other.returncode == 2
    assert 'dtype was "float32" and is "bfloat16"' in other.stderr
    assert call(*run, "-o", two, "--dtype", "float32").returncode == 0


def test_a_bad_line_costs_nothing_but_itself(tmp_path: Path) -> None:
    bad = {
        "unknown field": line("unknown field", prompt="a", colour="red"),
        "unknown url": {**line("unknown url", prompt="a"), "url": "/v1/classify"},
        "too long": line("too long", prompt=[5] * 2000),
        "never fits": line("never fits", prompt=[5] * 600),
        "bad value": line("bad value", prompt="a", temperature=-1),
    }
    good = [line(f"good {i}", prompt="The list type", max_tokens=4) for i in range(3)]
    source = write_lines(tmp_path / "in.jsonl", [good[0], *bad.values(), good[1], good[1], good[2]])
    with source.open("a") as file:
        file.write("this is not JSON\n")
    output = tmp_path / "out.jsonl"
    # 512 KiB hold 512 tokens at most of the demo model's KV.
    done = glinthawk("run", "-m", "demo", "-i", source, "-o", output, "--tier1-kv", "1MiB")
    assert done.returncode == 1, done.stderr
    errors = [r["custom_id"] for r in results(output).values() if error_of(r)]
    assert sorted(map(str, errors)) == sorted([*bad, "good 1", "None"])
    answered = [r["custom_id"] for r in results(output).values() if not error_of(r)]
    assert sorted(answered) == ["good 0", "good 1", "good 2"]


def test_a_finished_job_resumes_to_nothing_and_a_grown_one_to_the_rest(tmp_path: Path) -> None:
    lines = [line(str(i), prompt=f"Number {i}", max_tokens=3) for i in range(6)]
    source, output = write_lines(tmp_path / "in.jsonl", lines[:4]), tmp_path / "out.jsonl"
    arguments = ["run", "-m", "demo", "-i", source, "-o", output]
    assert call(*arguments).returncode == 0
    first = output.read_bytes()
    assert call(*arguments).returncode == 0
    assert output.read_bytes() == first
    write_lines(source, lines)
    assert call(*arguments).returncode == 0
    assert output.read_bytes().startswith(first)
    assert len(results(output)) == 6


def test_a_job_may_go_on_with_kv_elsewhere(tmp_path: Path) -> None:
    """Where KV is attended changes no answer, so it is no other job."""
    lines = [line(str(i), prompt=f"Number {i}", max_tokens=9, temperature=0) for i in range(6)]
    source, output = write_lines(tmp_path / "in.jsonl", lines[:3]), tmp_path / "out.jsonl"
    assert call(*run_arguments(source, output)).returncode == 0
    write_lines(source, lines)
    stats = tmp_path / "stats.json"
    fetch = ("--kv-placement", "fetch", "--stats-json", stats)
    done = call(*run_arguments(source, output, *fetch))
    assert done.returncode == 0, done.stderr
    numbers = json.loads(stats.read_text())
    assert numbers["wire_decode_bytes_back"] > 10 * numbers["wire_decode_bytes_out"]
    near = tmp_path / "near.jsonl"
    assert call(*run_arguments(source, near)).returncode == 0
    assert results(output) == results(near)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-m", "demo", "--seed", "9"], "seed"),
        (["-m", "/nowhere/model"], "config.json"),
        (["-m", "demo", "--tier2", "local:0"], "local:2"),
        (["-m", "demo", "--tier2", "tcp://localhost"], "tcp://host:port"),
        (["-m", "demo", "--worker-kv", "much"], "4GiB"),
        (["-m", "demo", "--tier1-kv", "0"], "tier2"),
        (["-m", "demo", "--tier1-kv", "1KiB"], "KV memory"),
        (["-m", "demo", "--max-model-len", "100000"], "1024"),
        (["-m", "demo", "--kv-placement", "fetch"], "tier2"),
    ],
)
def test_what_cannot_run_says_why_in_one_line(
    tmp_path: Path, arguments: list[str], says: str
) -> None:
    source = write_lines(tmp_path / "in.jsonl", [line("a", prompt="The", max_tokens=1)])
    output = tmp_path / "out.jsonl"
    if "--seed" in arguments:
        assert call("run", "-m", "demo", "-i", source, "-o", output).returncode == 0
    done = call("run", "-i", source, "-o", output, "--quiet", *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.startswith("glinthawk: ")
    assert done.stderr.count("\n") == 1


def test_a_model_that_cannot_be_cut_is_refused_and_starts_nothing(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [line("a", prompt=[5], max_tokens=1)])
    model = make_model(tmp_path, "falcon")
    done = call(
        "run", "-m", model, "-i", source, "-o", tmp_path / "out.jsonl", "--tier2", "local:1"
    )
    assert done.returncode == 2
    assert "falcon" in done.stderr


def test_a_model_without_tokenizer_answers_token_ids(tmp_path: Path) -> None:
    model = make_model(tmp_path, "llama")
    asked = line("ids", prompt=[5, 6, 7], max_tokens=3, ignore_eos=True, return_token_ids=True)
    source = write_lines(tmp_path / "in.jsonl", [asked, line("text", prompt="hello")])
    output = tmp_path / "out.jsonl"
    assert call("run", "-m", model, "-i", source, "-o", output).returncode == 1
    answered, refused = (
        results(output)["batch_req_000000000"],
        results(output)["batch_req_000000001"],
    )
    assert len(answered["response"]["body"]["choices"][0]["token_ids"]) == 3
    assert "tokenizer" in str(error_of(refused))


#: Lines of a job that goes on for many times as long as it takes to see that it has begun.
LONG = 320


def long_job(tmp_path: Path) -> tuple[Path, Path]:
    lines = [
        line(str(i), prompt="def f(x):", max_tokens=4 + i % 80, ignore_eos=True, temperature=0)
        for i in range(LONG)
    ]
    return write_lines(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"


def test_ctrl_c_drains_and_the_same_command_resumes(tmp_path: Path) -> None:
    source, output = long_job(tmp_path)
    process = start(*run_arguments(source, output, "--batch-size", "2"))
    wait_until(lambda: count_lines(output) > 0)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, errors
    assert "run the same command again to resume" in errors
    assert 0 < len(results(output)) < LONG
    assert call(*run_arguments(source, output, "--batch-size", "64")).returncode == 0
    assert len(results(output)) == LONG


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    source, output = long_job(tmp_path)
    process = start(*run_arguments(source, output, "--batch-size", "2"))
    wait_until(lambda: count_lines(output) > 0)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while "Ctrl-C again" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert len(results(output)) < LONG


def test_a_worker_by_address_serves_who_knows_its_key(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.json", tmp_path / "theirs.json"
    our_key = glinthawk("keygen", "--identity", ours).stdout.strip()
    worker = start(
        *("worker", "--listen", "tcp://127.0.0.1:0", "--kv", "64MiB", "--threads", "1"),
        *("--identity", theirs, "--allow", our_key),
    )
    try:
        assert worker.stdout is not None
        address = worker.stdout.readline().split()[-1]
        source = write_lines(tmp_path / "in.jsonl", [line("a", prompt="The", max_tokens=5)])
        arguments = ["run", "-m", "demo", "-i", source, "--tier2", address]
        known = call(*arguments, "-o", tmp_path / "known.jsonl", "--identity", ours)
        assert known.returncode == 0, known.stderr
        stranger = tmp_path / "stranger.json"
        unknown = call(*arguments, "-o", tmp_path / "unknown.jsonl", "--identity", stranger)
        assert unknown.returncode == 2
        assert "keygen" in unknown.stderr
        again = call(*arguments, "-o", tmp_path / "again.jsonl", "--identity", ours)
        assert again.returncode == 0, again.stderr
    finally:
        worker.terminate()
        worker.communicate(timeout=PATIENCE_S)
    assert worker.returncode == 0


def test_a_worker_on_a_trusted_network_serves_who_knows_its_password(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("hunter2\n")
    worker = start(
        *("worker", "--listen", "tcp+plain://127.0.0.1:0", "--kv", "64MiB", "--threads", "1"),
        *("--password-file", secret),
    )
    try:
        assert worker.stdout is not None
        said = worker.stdout.readline()
        address, _, query = said.split()[-1].partition("?")
        assert address.startswith("tcp+plain://127.0.0.1:")
        assert query == "password=..."
        source = write_lines(tmp_path / "in.jsonl", [line("a", prompt="The", max_tokens=5)])
        arguments = ["run", "-m", "demo", "-i", source, "-o", tmp_path / "out.jsonl", "--tier2"]
        wrong = call(*arguments, f"{address}?password=hunter1")
        assert wrong.returncode == 2
        assert "--password-file" in wrong.stderr
        known = call(*arguments, f"{address}?password=hunter2", "--worker-timeout", "20")
        assert known.returncode == 0, known.stderr
    finally:
        worker.terminate()
        worker.communicate(timeout=PATIENCE_S)
    assert worker.returncode == 0


def test_a_worker_without_a_password_for_others_does_not_start() -> None:
    done = glinthawk("worker", "--listen", "tcp+plain://127.0.0.1:0")
    assert done.returncode == 2
    assert "--password-file" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one here")
def test_a_worker_without_the_gpu_that_it_should_use_says_so(tmp_path: Path) -> None:
    done = glinthawk("worker", "--listen", f"ipc://{tmp_path}/worker", "--device", "cuda")
    assert done.returncode == 2
    assert done.stderr.startswith("glinthawk: ")
    assert "--device cpu" in done.stderr


def test_200_000_lines_begin_at_once_in_little_memory(tmp_path: Path) -> None:
    few = write_lines(tmp_path / "few.jsonl", [line("a", prompt="The", max_tokens=1)])
    many = tmp_path / "many.jsonl"
    with many.open("w") as file:
        for number in range(200_000):
            file.write(
                json.dumps(line(f"request-{number}", prompt=f"{number} is", max_tokens=1)) + "\n"
            )
    before = peak_memory(few, tmp_path / "few-out.jsonl", until=1)
    after = peak_memory(many, tmp_path / "many-out.jsonl", until=500)
    assert after - before < 1 << 30


def peak_memory(source: Path, output: Path, until: int) -> int:
    """Most bytes in memory by the time that ``until`` lines are answered."""
    process = start("run", "-m", "demo", "-i", source, "-o", output, "--quiet")
    peak = 0

    def answered() -> bool:
        nonlocal peak
        status = Path(f"/proc/{process.pid}/status").read_text()
        if "VmHWM" in status:
            peak = max(peak, int(status.split("VmHWM:")[1].split()[0]) * 1024)
        return count_lines(output) >= until or process.poll() is not None

    wait_until(answered)
    process.kill()
    process.communicate()
    assert count_lines(output) >= until
    return peak
