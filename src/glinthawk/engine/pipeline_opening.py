"""A pipeline, its nodes and their workers, for as long as a run lasts."""

from collections.abc import Iterator
from contextlib import contextmanager

from glinthawk.core.config import EngineConfig
from glinthawk.engine.layer_shares import share_layers
from glinthawk.engine.pipeline import Pipeline
from glinthawk.engine.pipeline_facts import step_seconds
from glinthawk.engine.slice_loads import plan_loads
from glinthawk.launch.launcher import open_deployment

__all__ = ["open_pipeline"]


@contextmanager
def open_pipeline(config: EngineConfig) -> Iterator[Pipeline]:
    """Start the nodes that the run starts itself, and load every node's slice; once more if what
    they measure says that other layers suit them better."""
    with open_deployment(config, _import_node_actor) as places:
        shares = share_layers(config, places.nodes)
        loads = plan_loads(config, places.nodes, shares.parts)
        with Pipeline(loads, places.identity, places.processes) as pipeline:
            pipeline.open()
            if (better := shares.balance(step_seconds(pipeline.loaded()))) is not None:
                pipeline.share(better.parts)
            yield pipeline


def _import_node_actor() -> type:
    """Needs Ray, which is an extra."""
    from glinthawk.engine.ray_node import NodeActor

    return NodeActor
