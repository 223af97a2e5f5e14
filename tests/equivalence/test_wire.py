"""What crosses the link: q, k, v of every decoded token and its attention output, little else."""

import json
from pathlib import Path

import pytest
from link_traffic import SHAPE, decode_bytes

from cluster import open_cluster
from glinthawk.core.config import EngineConfig
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.tier1.model.loader import load_model

_PROMPT, _NEW = 8, 6


def requests(count: int) -> list[Request]:
    params = SamplingParams(temperature=0, max_tokens=_NEW)
    return [Request(i, (5,) * _PROMPT, params, 0, _NEW) for i in range(count)]


@pytest.mark.parametrize("count", [1, 4, 64])
def test_decode_traffic_is_within_five_percent_of_the_minimum(tmp_path: Path, count: int) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SHAPE))
    loaded = load_model(EngineConfig(model=str(tmp_path), load_format="dummy"))
    spec = loaded.spec
    assert spec.dtype == "bfloat16"
    group = 12 / 4
    minimum = (2 + 2 / group) * 12 * 64 * 2 * len(spec.layers)
    assert spec.wire_bytes_per_token == minimum
    with open_cluster(loaded, tmp_path, scheme="ipc", workers=2, batches_in_flight=2) as run:
        assert len(list(run.engine.generate(requests(count)))) == count
        out, back = decode_bytes(run)
    # The first new token comes from the prompt's own step.
    decoded = count * (_NEW - 1)
    assert minimum <= (out + back) / decoded <= 1.05 * minimum
