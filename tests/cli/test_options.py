"""Every setting of the engine has an option of ``run``, and what is given arrives."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from commands import call
from glinthawk.cli import converted_job
from glinthawk.cli.options import SettingsOf
from glinthawk.core.config import EngineConfig

#: (words, setting, what it is then); with more words that it needs beside it.
_KEY = "ab" * 32
OPTIONS: list[tuple[str, str, Any]] = [
    ("-m other", "model", "other"),
    ("--tier2 local:2", "tier2", ("local:2",)),
    ("--cluster ray", "cluster", "ray"),
    ("--slices 2 --cluster ray", "slices", 2),
    ("--workers-per-slice 3 --cluster ray", "workers_per_slice", 3),
    ("--tier1-kv 1GiB", "tier1_kv", "1GiB"),
    ("--worker-kv 1GiB", "worker_kv", "1GiB"),
    ("--worker-storage /tmp:1GiB", "worker_storage", ("/tmp:1GiB",)),
    ("--split-attention heads --tier2 local:2", "split_attention", "heads"),
    ("--kv-placement fetch --tier2 local:2", "kv_placement", "fetch"),
    ("--lora sql=a --lora-modules prose=b", "lora", ("sql=a", "prose=b")),
    ("--xcache 0.5 --tier2 local:2", "xcache", 0.5),
    ("--xcache-memory 1GiB --xcache 0.5 --tier2 local:2", "xcache_memory", "1GiB"),
    ("--kv-dtype int8", "kv_dtype", "int8"),
    ("--dtype bfloat16", "dtype", "bfloat16"),
    ("--device cpu", "device", "cpu"),
    ("--load-format dummy", "load_format", "dummy"),
    ("--trust-remote-code", "trust_remote_code", True),
    ("--dense plain", "dense", "plain"),
    ("--batch-invariant", "batch_invariant", True),
    ("--batch-size 7", "batch_size", 7),
    ("--batches-in-flight 3", "batches_in_flight", 3),
    ("--batch-tokens 99", "batch_tokens", 99),
    ("--speculation auto", "speculation", "auto"),
    ("--num-speculative-tokens 3", "num_speculative_tokens", 3),
    ("--max-model-len 77", "max_model_len", 77),
    ("--seed 5", "seed", 5),
    ("--identity /tmp/key", "identity", "/tmp/key"),
    ("--worker-timeout 9", "worker_timeout", 9.0),
    ("--wait-for-workers 8", "wait_for_workers", 8.0),
    ("--joiners tcp://127.0.0.1:7009", "joiners", "tcp://127.0.0.1:7009"),
    (f"--joiners tcp://0.0.0.0:7009 --allow-joiner {_KEY}", "allow_joiner", (_KEY,)),
]


@pytest.mark.parametrize(("words", "setting", "value"), OPTIONS)
def test_it_arrives(
    words: str, setting: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived: list[EngineConfig] = []

    def answer(config: EngineConfig, *_: object, **__: object) -> int:
        arrived.append(config)
        return 0

    monkeypatch.setattr(converted_job, "answer_input", answer)
    files = ["-i", tmp_path / "in", "-o", tmp_path / "out"]
    done = call("run", "-m", "demo", *files, *words.split())
    assert done.returncode == 0, done.stderr
    assert getattr(arrived[0], setting) == value
    assert getattr(EngineConfig(model="demo"), setting) != value


def test_no_setting_is_forgotten() -> None:
    assert {setting for _, setting, _ in OPTIONS} == {field.name for field in fields(EngineConfig)}


def test_help_speaks_of_options_and_not_of_settings() -> None:
    options = {one.name: one for one in SettingsOf(EngineConfig).options()}
    for name, one in options.items():
        said = one.annotation.__metadata__[0].help
        assert not any(f"`{other}`" in said for other in options), name
    assert "auto: as --dtype." in options["kv_dtype"].annotation.__metadata__[0].help


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--batch-size many", "'many' is neither auto nor a number"),
        ("--batch-size 0", "--batch-size must be auto or a whole number of at least 1, not 0"),
        ("--dtype int4", "'bfloat16', 'float16'"),
        ("--xcache 1.5 --tier2 local:1", "at least 0 and less than 1, not 1.5"),
        ("--worker-kv much", "--worker-kv: 'much' is not a size; write it like 4GiB"),
        ("--restart --retry-errors", "give that or --retry-errors"),
    ],
)
def test_what_is_refused_says_what_is_taken(words: str, says: str, tmp_path: Path) -> None:
    done = call("run", "-m", "demo", "-i", tmp_path / "in", "-o", tmp_path / "out", *words.split())
    assert done.returncode == 2
    assert says in " ".join(done.stderr.replace("│", " ").split())
