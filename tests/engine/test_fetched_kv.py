"""Where Tier 1 cannot attend to fetched KV, the run says so before it opens a home."""

from pathlib import Path
from typing import Any

import pytest
import torch

from families import make_model
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import UsageError
from glinthawk.engine.node_opening import open_node
from glinthawk.tier1.model.loader import load_model


def _config(model: Path, **settings: Any) -> EngineConfig:
    return EngineConfig(
        model=str(model), tier2=("local:1",), worker_kv="4MiB", kv_placement="fetch", **settings
    )


def test_a_model_that_is_not_on_a_cpu_is_refused(tmp_path: Path) -> None:
    config = _config(make_model(tmp_path, "llama"))
    loaded = load_model(config)
    loaded.model.to(torch.device("meta"))
    with pytest.raises(UsageError, match="--device cpu"), open_node(config, loaded=loaded):
        pytest.fail("it opened")
