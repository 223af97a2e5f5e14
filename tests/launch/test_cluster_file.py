"""A cluster file that cannot work is refused at once, and says what to change."""

import subprocess
from pathlib import Path

import pytest

from families import make_model
from glinthawk.core.cluster import LOCAL, Cluster, NodePlan
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import UsageError
from glinthawk.engine.run import open_run
from glinthawk.launch.local_processes import LocalProcesses


def write(folder: Path, text: str) -> Path:
    path = folder / "cluster.toml"
    path.write_text(text)
    return path


def test_a_file_says_what_each_node_has(tmp_path: Path) -> None:
    text = """
    [[nodes]]
    address = "tcp://gpu-1:7000"
    workers = ["tcp://worker-1:7001", "local:2"]
    layers = "0:4"
    device = "cuda"
    [[nodes]]
    workers = ["local:3"]
    worker_kv = "1GiB"
    """
    first, second = Cluster.load(write(tmp_path, text)).nodes
    workers = ("tcp://worker-1:7001", "local:2")
    assert first == NodePlan("tcp://gpu-1:7000", workers, layers="0:4", device="cuda")
    assert second == NodePlan(LOCAL, ("local:3",), worker_kv="1GiB")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", r"\[\[nodes\]\] entries"),
        ("nodes = 3", r"\[\[nodes\]\] entries"),
        ("[[nodes]]\n[extra]", "nothing else"),
        ("[[nodes]]\nworker = 'local:1'", "no 'worker'; did you mean workers"),
        ("[[nodes]]\nworkers = 'local:1'", "a list of addresses"),
        ("[[nodes]]\nlayers = 4", "text in quotes"),
        ("[[nodes]]\nworker_kv = 1.5", "node 1: worker_kv is a size in quotes"),
        ("[[nodes]]\ntier1_kv = true", "node 1: tier1_kv is a size in quotes"),
        ("[[nodes]]\nworker_kv = 'much'", "node 1: worker_kv: 'much' is not a size"),
        ("[[nodes]]\nworker_storage = '/nvme:1GiB'", "a list of DIR:SIZE"),
        ("[[nodes", "not TOML"),
    ],
)
def test_what_is_malformed_is_named(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Cluster.load(write(tmp_path, text))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no\.toml"):
        Cluster.load(tmp_path / "no.toml")


@pytest.fixture
def idle_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes in the place of nodes: of what is refused here they must not hear."""

    def start(self: LocalProcesses, index: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)

    monkeypatch.setattr(LocalProcesses, "_start", start)


_TWO = "[[nodes]]\nworkers = ['local:1']\n{first}\n[[nodes]]\nworkers = ['local:1']\n{second}\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[[nodes]]\nworkers = ['local:1']\n[[nodes]]\nworkers = ['local:2']", "not 1, 2"),
        ("[[nodes]]\nworkers = ['nowhere']", "not an address"),
        ("[[nodes]]\naddress = 'nowhere'\nworkers = ['local:1']", "not an address"),
        ("[[nodes]]\nworkers = []\ntier1_kv = 0", "no memory for the KV cache"),
        (_TWO.format(first="tier1_kv = '1MiB'", second=""), "all nodes have tier1_kv or none"),
        (_TWO.format(first="layers = '0:1'", second="layers = '2:3'"), "follow one another"),
        (_TWO.format(first="layers = '0:1'", second=""), "for every node or for none"),
        (_TWO.format(first="device = 'tpu'", second=""), "`device` must be one of"),
        ("[[nodes]]\nworkers = ['local:1']\n" * 4, "cannot be split into 4"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_loaded(
    tmp_path: Path, idle_nodes: None, text: str, reason: str
) -> None:
    path = make_model(tmp_path, "llama")
    config = EngineConfig(model=str(path), cluster=str(write(tmp_path, text)))
    with pytest.raises(UsageError, match=reason), open_run(config):
        pass


def test_a_cluster_names_the_workers_itself() -> None:
    with pytest.raises(UsageError, match="leave `tier2` out"):
        EngineConfig(model="demo", tier2=("local:1",), cluster="cluster.toml")
