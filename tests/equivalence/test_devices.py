"""The backbone with what a GPU brings: replayed passes and copies that take their time."""

from pathlib import Path

import pytest
import torch

from cluster import open_cluster
from delayed_staging import LateStaging, often_late
from glinthawk.core.config import EngineConfig
from glinthawk.engine.run import open_run
from glinthawk.engine.tuning import choose_prompt_attention
from glinthawk.tier1.forward.graphs import GraphedPasses
from glinthawk.tier1.forward.recording import CudaRecorder
from model_cases import Case
from replay_recorder import TapeRecorder

#: gpt2 cannot be recorded: its passes are plain from the first on.
FAMILIES = ["llama", "gemma2", "opt", "gpt2", "mixtral"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scheme", ["inproc", "ipc"])
@pytest.mark.parametrize(("workers", "tier1_pages"), [(2, 0), (1, 3)])
def test_replayed_passes_and_late_copies_change_no_answer(
    tmp_path: Path, family: str, scheme: str, workers: int, tier1_pages: int
) -> None:
    case = Case(tmp_path, family)
    recorder = TapeRecorder()
    stagings = [LateStaging(often_late(number)) for number in range(workers)]
    with open_cluster(
        case.loaded,
        tmp_path,
        scheme=scheme,
        workers=workers,
        tier1_pages=tier1_pages,
        worker_pages=8,  # scarce: some sequences are pre-empted
        batches_in_flight=3,
        batch_tokens=96,
        passes=GraphedPasses(case.loaded.model, recorder),
        staging=iter(stagings).__next__,
    ) as run:
        answers = {s.id: s.output for s in run.engine.generate(case.requests())}
        run.engine.scheduler.validate()
    assert answers == case.expected()
    assert (recorder.num_replays > 200) == (family != "gpt2")
    assert all(staging.num_early_looks > 100 for staging in stagings)


@pytest.mark.gpu
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("workers", "tier1_pages"), [(2, 0), (1, 3), (0, 64)])
@pytest.mark.parametrize("is_replayed", [True, False])
def test_a_gpu_answers_as_the_model_does_on_a_cpu(
    tmp_path: Path, family: str, workers: int, tier1_pages: int, is_replayed: bool
) -> None:
    """Workers are on the CPU, Tier 1's own KV is on the GPU."""
    case = Case(tmp_path, family, device="cuda")
    device = case.loaded.model.device
    passes = GraphedPasses(case.loaded.model, CudaRecorder(device)) if is_replayed else None
    with open_cluster(
        case.loaded,
        tmp_path,
        scheme="ipc",
        workers=workers,
        tier1_pages=tier1_pages,
        batches_in_flight=3,
        batch_tokens=96,
        passes=passes,
        attention=choose_prompt_attention(case.loaded),
    ) as run:
        answers = {s.id: s.output for s in run.engine.generate(case.requests())}
    assert answers == case.expected()


@pytest.mark.gpu
@pytest.mark.parametrize("dense", ["auto", "plain"])
def test_a_whole_run_on_a_gpu(tmp_path: Path, dense: str) -> None:
    """Workers are processes; sizes are measured; in float32 answers are the CPU's."""
    case = Case(tmp_path, "llama")
    config = EngineConfig(
        model=str(case.path),
        tier2=("local:1",),
        worker_kv="64MiB",
        device="cuda",
        dense=dense,  # type: ignore[arg-type]
    )
    with open_run(config) as run:
        answers = {s.id: s.output for s in run.engine.generate(case.requests())}
    assert answers == case.expected()


@pytest.mark.gpu
def test_a_recording_that_fails_spoils_no_later_one() -> None:
    device = torch.device("cuda")
    recorder = CudaRecorder(device)
    x = torch.ones(4, device=device)
    with pytest.raises(RuntimeError):
        recorder.record(lambda: x.sum().item(), recorder.new_pool())
    assert x.sum().item() == 4
    with pytest.raises(RuntimeError, match="synchroniz"):
        recorder.rehearse(lambda: x.sum().item())
    assert x.sum().item() == 4
    recorder.rehearse(lambda: x * 2)
    doubled, replay = recorder.record(lambda: x * 2, recorder.new_pool())
    x.fill_(3)
    replay()
    assert doubled.tolist() == [6.0] * 4
