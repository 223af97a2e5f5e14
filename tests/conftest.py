"""What all tests share: quiet libraries, and a check that a test leaves nothing behind."""

import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

# Read when torch is loaded, here and in processes that tests start: threads that spin while they
# wait slow everything down where tests run beside one another.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from hypothesis import HealthCheck, settings

from zygote import children, forked_processes

# How long an example takes says how busy the machine is, and nothing about us.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# Triton reads this when it is imported, which transformers does: without a GPU, kernels run in its
# interpreter.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


def _load_native(path: str) -> None:
    """Another build of the extension in place of the installed one (`make test-sanitize`)."""
    spec = importlib.util.spec_from_file_location("glinthawk._native", path)
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)


if "GLINTHAWK_NATIVE" in os.environ:
    _load_native(os.environ["GLINTHAWK_NATIVE"])


#: Files that take longest, the longest first: begun last, they would run alone.
_LONGEST = (
    "test_lost_machines.py",
    "test_chunks.py",
    "test_lost_messages.py",
    "test_families.py",
    "test_long_prompts.py",
    "test_length_rotation.py",
    "test_invariance.py",
    "test_ray.py",
    "test_triton_backend.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
        pytest.skip("no CUDA device")


def _folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("glinthawk-*"))


@pytest.fixture(scope="session", autouse=True)
def own_home_and_temporary_folder() -> Iterator[None]:
    """Keys and sockets of tests, and of the processes that they start, stay among themselves."""
    with tempfile.TemporaryDirectory(prefix="gt-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setenv("HOME", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(scope="session", autouse=True)
def processes_begin_with_libraries(own_home_and_temporary_folder: None) -> Iterator[None]:
    """They are forked from one that has loaded them, unless GLINTHAWK_FORK is 0."""
    with nullcontext() if os.environ.get("GLINTHAWK_FORK") == "0" else forked_processes():
        yield


@pytest.fixture(autouse=True)
def leaves_nothing_behind(processes_begin_with_libraries: None) -> Iterator[None]:
    """Every test ends its processes and removes its sockets."""
    before, folders = set(children()), _folders()
    yield
    assert set(children()) <= before, "a process was left behind"
    assert _folders() <= folders, "a folder was left behind"


@pytest.fixture(scope="session", autouse=True)
def quiet_libraries() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


@pytest.fixture(autouse=True)
def one_thread_each() -> None:
    """Tiny tensors: a second thread costs more than it brings. A run that an earlier test opened
    took as many as there are cores."""
    torch.set_num_threads(1)
