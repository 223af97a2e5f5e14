"""Three hosts with real TCP between them, one of which is cut off and comes back."""

import json
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from commands import EXAMPLES, PATIENCE_S, glinthawk, results, write_lines
from hosts import Host, hosts
from watching import wait_until

_CUT_S = 5.0
_COPIES = 3


@pytest.mark.chaos
def test_a_host_that_is_cut_off_for_a_while_costs_no_answer(tmp_path: Path) -> None:
    source, output, undisturbed = (tmp_path / f"{name}.jsonl" for name in ("in", "out", "own"))
    _write_job(source)
    exact = ["--dtype", "float32", "--batch-size", 8, "--quiet"]
    done = glinthawk("run", "-m", "demo", "-i", source, "-o", undisturbed, *exact)
    assert done.returncode == 0, done.stderr
    with hosts(3) as machines, ExitStack() as stack:
        cluster = _start_cluster(stack, machines, tmp_path)
        words = ["run", "-m", "demo", "-i", source, "-o", output, "--cluster", cluster, *exact]
        job = _start(stack, machines[0], *words)
        wait_until(lambda: job.poll() is not None or _num_lines(output) > 20)
        machines[2].pull_cable()
        threading.Event().wait(_CUT_S)  # as long as the cable is out; nothing waits for it
        machines[2].plug_cable()
        assert job.wait(PATIENCE_S) == 0
    assert results(output) == results(undisturbed)
    assert _num_lines(output) == _num_lines(source)


def _write_job(path: Path) -> None:
    examples = [json.loads(text) for text in EXAMPLES.read_text().splitlines()]
    numbered = [
        {**example, "custom_id": f"{copy}-{example['custom_id']}"}
        for copy in range(_COPIES)
        for example in examples
    ]
    write_lines(path, numbered)


def _start_cluster(stack: ExitStack, machines: list[Host], folder: Path) -> Path:
    """A node and a worker on the first two hosts; a worker for each of them on the third."""
    key = glinthawk("keygen").stdout.split()[-1]
    first, second, third = machines
    entries = []
    for number, host in enumerate((first, second)):
        near, far = f"tcp://{host.ip}:7001", f"tcp://{third.ip}:{7001 + number}"
        node = f"tcp://{host.ip}:7000"
        worker = ["worker", "--kv", "64MiB", "--threads", 1, "--allow", key, "--listen"]
        _serve(stack, host, *worker, near)
        _serve(stack, third, *worker, far)
        _serve(stack, host, "node", "--threads", 1, "--allow", key, "--listen", node)
        workers = json.dumps([f"{near}?key={key}", f"{far}?key={key}"])
        entries.append(f'[[nodes]]\naddress = "{node}?key={key}"\nworkers = {workers}\n')
    path = folder / "cluster.toml"
    path.write_text("\n".join(entries))
    return path


def _serve(stack: ExitStack, host: Host, *words: object) -> None:
    """Return when it listens, however long it takes to start."""
    assert _start(stack, host, *words, stdout=subprocess.PIPE).stdout.readline()


def _start(
    stack: ExitStack, host: Host, *words: object, stdout: int | None = None
) -> subprocess.Popen[bytes]:
    command = host.command(sys.executable, "-m", "glinthawk", *words)
    process = subprocess.Popen(command, stdout=stdout)
    stack.callback(process.communicate)
    stack.callback(process.kill)
    return process


def _num_lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0
