"""What has become of the processes of a pipeline: nodes, and their workers."""

from collections.abc import Sequence

from glinthawk.core.errors import WorkerLost
from glinthawk.engine.node_link import NodeLink
from glinthawk.engine.pipeline_homes import PipelineHomes
from glinthawk.launch.deployment import Processes
from glinthawk.wire.address import Address

__all__ = ["PipelineProcesses"]


class PipelineProcesses:
    """Those that the run has started (``processes``), and those of which nodes have told."""

    def __init__(
        self, processes: Processes, stages: Sequence[NodeLink], homes: PipelineHomes
    ) -> None:
        self._processes, self._stages, self._homes = processes, stages, homes

    def check(self) -> None:
        """While slices are loaded. Raises WorkerLost for one that has died."""
        self._processes.check()

    def revive(self) -> dict[Address, Address]:
        """Start again what has died; where it was, and is now. Raises WorkerLost for a node that is
        given up: nothing goes on without its slice."""
        moved = self._processes.revive()
        fates = self._processes.fates()
        for stage in self._stages if fates else ():
            fate = fates.get(stage.address)
            if fate is not None and fate.is_over:
                raise WorkerLost(
                    f"{stage.name} does not come back: {fate.words}; mend that and run "
                    "the same command again to resume"
                )
        return moved

    def over(self) -> set[int]:
        """Homes that do not come back."""
        ended = {address for address, fate in self._processes.fates().items() if fate.is_over}
        workers = self._homes.workers() if ended else ()
        told = {home for stage in self._stages for home in stage.fates.over}
        return told | {home for home, addresses in workers if not ended.isdisjoint(addresses)}

    @property
    def last_words(self) -> str:
        """Of those that died and are not there again."""
        own = [fate.words for fate in self._processes.fates().values()]
        told = [
            f"{stage.name}: {words}"
            for stage in self._stages
            for words in stage.fates.words.values()
        ]
        return "; ".join([*own, *told])

    def worked(self, homes: set[int]) -> None:
        """All nodes have, and these homes' workers: news of those that may be given up."""
        if all(fate.is_over for fate in self._processes.fates().values()):
            return
        for stage in self._stages:
            self._processes.worked(stage.address)
        for home, workers in self._homes.workers():
            for worker in workers if home in homes else ():
                self._processes.worked(worker)
