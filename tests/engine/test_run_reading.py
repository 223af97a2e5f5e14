"""What is read beside a run is what the run came to."""

import statistics
from pathlib import Path

from families import make_model
from glinthawk.core.config import EngineConfig
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.engine.run import open_run
from glinthawk.engine.run_reading import read_run
from glinthawk.telemetry.reading import Reading
from pipeline_nodes import write_cluster

_PARAMS = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)


def test_readings_add_up_to_what_the_run_has_at_its_end(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", "llama")
    config = EngineConfig(
        model=str(model), tier2=("local:2",), worker_kv="128KiB", tier1_kv="0", batch_size=4
    )
    requests = [Request(i, tuple(range(5 + i, 30 + i)), _PARAMS, 0, 12) for i in range(12)]
    readings: list[Reading] = []
    with open_run(config) as run:
        readings.append(read_run(run))
        steps = run.engine.generate(requests, after_step=lambda: readings.append(read_run(run)))
        answers = list(steps)
        readings.append(read_run(run))
        usage = run.tier1.usage()
    first, last = readings[0], readings[-1]
    assert (first.tokens, first.running, first.batches) == (0, 0, 0)
    assert last.tokens == sum(len(answer.output) for answer in answers) == 12 * 12
    assert (last.running, last.waiting, last.in_flight) == (0, 0, 0)
    assert last.kv_room.keys() == {1, 2}
    assert max(one.running for one in readings) > 1
    assert max(sum(one.kv_used.values()) for one in readings) > 0
    for name in ("tokens", "batches", "input_s"):
        values = [getattr(one, name) for one in readings]
        assert values == sorted(values)
    assert last.glance is not None
    # The workers' own word, which they are asked for only when nothing is under way.
    assert last.glance.bytes_out == usage.decode_bytes_out + usage.prefill_bytes
    assert last.glance.bytes_back == usage.decode_bytes_back
    assert last.glance.tier1_busy_s == usage.tier1_busy_s[0]
    attending = [last.glance.tier2_busy_s[home] for home in (1, 2)]
    for seconds, own in zip(attending, usage.tier2_busy_s, strict=True):
        assert 0 < seconds <= own * 1.01 + 1e-3


def test_the_nodes_of_a_pipeline_tell_what_they_did_so_far(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", "llama")
    cluster = write_cluster(tmp_path, [1, 1])
    config = EngineConfig(model=str(model), cluster=cluster, batch_size=4)
    requests = [Request(i, tuple(range(5 + i, 30 + i)), _PARAMS, 0, 12) for i in range(12)]
    readings: list[Reading] = []
    with open_run(config) as run:
        assert read_run(run).glance is None
        look = run.engine.generate(requests, after_step=lambda: readings.append(read_run(run)))
        assert len(list(look)) == len(requests)
        run.glance()
        run.tier1.poll(0.0)  # nodes are asked now, and answer before they say what it came to
        usage = run.tier1.usage()
        last = run.glance()
    told = [one.glance for one in readings if one.glance is not None]
    assert len(told) > 1
    assert last is not None
    for name in ("tier1_busy_s", "bytes_out", "bytes_back"):
        values = [getattr(one, name) for one in [*told, last]]
        assert values == sorted(values)
    assert last.bytes_out == usage.decode_bytes_out + usage.prefill_bytes
    assert last.bytes_back == usage.decode_bytes_back
    assert 0 < last.tier1_busy_s <= statistics.mean(usage.tier1_busy_s)
    assert 0 < last.tier2_busy_s[1] <= statistics.mean(usage.tier2_busy_s) * 1.01 + 1e-3
