"""A pipeline, its nodes and their workers, for as long as a run lasts."""

from collections.abc import Iterator
from contextlib import contextmanager

from glinthawk.core.config import EngineConfig
from glinthawk.engine.pipeline import Pipeline
from glinthawk.engine.slice_loads import plan_loads
from glinthawk.launch.launcher import open_deployment

__all__ = ["open_pipeline"]


@contextmanager
def open_pipeline(config: EngineConfig) -> Iterator[Pipeline]:
    """Start the nodes that the run starts itself, and load every node's slice."""
    with open_deployment(config, _import_node_actor) as places:
        loads = plan_loads(config, places.nodes)
        with Pipeline(loads, places.identity, places.processes) as pipeline:
            pipeline.open()
            yield pipeline


def _import_node_actor() -> type:
    """Needs Ray, which is an extra."""
    from glinthawk.engine.ray_node import NodeActor

    return NodeActor
