"""EngineConfig: wrong settings are refused before anything starts."""

import dataclasses
import inspect
import re
from typing import Any

import pytest

from glinthawk import LLM
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import UsageError
from glinthawk.core.setting import list_settings

BAD: list[tuple[str, Any]] = [
    ("dtype", "int8"),
    ("dtype", ""),
    ("split_attention", "rows"),
    ("split_attention", "tokens"),
    ("kv_placement", "far"),
    ("kv_placement", "fetch"),
    ("kv_dtype", "float64"),
    ("device", "tpu"),
    ("load_format", "pickle"),
    ("batch_size", 0),
    ("batch_size", -4),
    ("batches_in_flight", 0),
    ("speculation", "always"),
    ("num_speculative_tokens", 0),
    ("max_model_len", 1),
    ("max_model_len", 0),
    ("max_model_len", -1),
]
#: Accepted today; the run fails later, or never ends.
UNCHECKED: list[tuple[str, Any]] = [
    ("batch_size", "many"),
    ("batch_tokens", 0),
    ("batch_tokens", -1),
    ("tier1_kv", -1),
    ("worker_kv", -1),
    ("worker_kv", "much"),
    ("worker_kv", 1.5),
    ("tier1_kv", True),
    ("seed", 2**63),
    ("worker_timeout", 0),
    ("worker_timeout", -1.0),
    ("worker_timeout", float("nan")),
    ("worker_timeout", float("inf")),
    ("worker_timeout", "soon"),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_setting_is_an_error_that_names_it(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=name):
        EngineConfig(model="demo", **{name: value})


@pytest.mark.parametrize(("name", "value"), UNCHECKED)
def test_an_unusable_setting_is_an_error_that_names_it(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=name):
        EngineConfig(model="demo", **{name: value})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"allow_joiner": ("0" * 64,)}, "say where workers may join"),
        ({"joiners": "tcp+plain://0.0.0.0:1"}, "where keys are checked"),
        ({"joiners": "ipc:///a", "cluster": "cluster.toml"}, "goes without `cluster`"),
        ({"joiners": "ipc:///a", "split_attention": "heads", "tier2": ("local:2",)}, "share all"),
        ({"joiners": "ipc:///a", "xcache": 0.5, "tier2": ("local:2",)}, "share all"),
    ],
)
def test_workers_join_where_sequences_are_whole(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        EngineConfig(model="demo", **settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"xcache": 1.0}, "less than 1"),
        ({"xcache": -0.1}, "at least 0"),
        ({"xcache": float("nan")}, "at least 0"),
        ({"xcache": "half"}, "`xcache` must be"),
        ({"xcache": 0.5, "tier2": ()}, "name some in `tier2`"),
        ({"xcache": 0.5, "split_attention": "heads"}, "`split_attention` sequence"),
        ({"xcache": 0.5, "split_attention": "tokens"}, "`split_attention` sequence"),
        ({"xcache": 0.5, "tier2": (), "cluster": "cluster.toml"}, "leave `xcache` out"),
        ({"xcache_memory": "1GiB"}, "give that a share"),
        ({"xcache": 0.5, "xcache_memory": "much"}, "xcache_memory"),
    ],
)
def test_an_x_cache_goes_with_whole_sequences_at_workers(
    settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        EngineConfig(model="demo", **{"tier2": ("local:1",), **settings})


def test_choices_are_listed_in_the_error() -> None:
    with pytest.raises(UsageError, match="auto, bfloat16, float16, float32"):
        EngineConfig(model="demo", dtype="int8")  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, "0", "0GiB"])
def test_a_run_without_any_kv_memory_is_an_error(size: int | str) -> None:
    with pytest.raises(UsageError, match=r"tier1_kv.*tier2"):
        EngineConfig(model="demo", tier1_kv=size)
    assert EngineConfig(model="demo", tier1_kv=size, tier2=("local:1",)).tier1_kv_bytes == 0


def test_tier_1_keeps_kv_by_itself_only_without_workers() -> None:
    assert EngineConfig(model="demo").tier1_kv_bytes == 2 << 30
    assert EngineConfig(model="demo", tier2=("local:2",)).tier1_kv_bytes == 0
    both = EngineConfig(model="demo", tier2=("local:2",), tier1_kv="1MiB", worker_kv="3MB")
    assert (both.tier1_kv_bytes, both.worker_kv_bytes) == (1 << 20, 3_000_000)


def test_a_size_that_is_none_is_an_error() -> None:
    with pytest.raises(UsageError, match="write it like"):
        EngineConfig(model="demo", tier1_kv="much")


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"split_attention": "heads"}, "`split_attention` sequence"),
        ({"split_attention": "tokens"}, "`split_attention` sequence"),
        ({"device": "cuda"}, "`device` cpu"),
    ],
)
def test_fetched_kv_goes_with_whole_sequences_and_a_cpu(setting: dict[str, Any], says: str) -> None:
    EngineConfig(model="demo", tier2=("local:2",), kv_placement="fetch")
    EngineConfig(model="demo", cluster="cluster.toml", kv_placement="fetch", device="cpu")
    with pytest.raises(UsageError, match=says):
        EngineConfig(model="demo", tier2=("local:2",), kv_placement="fetch", **setting)


def test_settings_have_names_and_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        EngineConfig("demo")  # type: ignore[misc]
    with pytest.raises(TypeError, match="temprature"):
        EngineConfig(model="demo", temprature=1)  # type: ignore[call-arg]
    with pytest.raises(dataclasses.FrozenInstanceError):
        EngineConfig(model="demo").seed = 1  # type: ignore[misc]


def test_python_users_are_told_of_every_setting() -> None:
    told = inspect.getdoc(LLM) or ""
    for field in dataclasses.fields(EngineConfig):
        assert f"\n{field.name}: " in told


def test_help_names_only_settings_that_there_are() -> None:
    names = {field.name for field in dataclasses.fields(EngineConfig)}
    for one in list_settings(EngineConfig):
        assert set(re.findall(r"`(\w+)`", one.setting.help)) <= names
        assert one.setting.help.endswith(".")
