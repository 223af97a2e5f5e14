"""Who answers the lines of a job: this process with its tiers, or a running server."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console

from glinthawk.cli.job_options import JobOptions
from glinthawk.cli.server_options import RemoteOptions
from glinthawk.core.config import EngineConfig
from glinthawk.core.hub import check_hub
from glinthawk.core.lora import identify_adapters
from glinthawk.core.source import identify_model, resolve_model
from glinthawk.jobs.journal import Journal
from glinthawk.jobs.line_rules import LineRules
from glinthawk.telemetry.progress import make_meter

if TYPE_CHECKING:
    from glinthawk.client.batch_api import BatchApi, RemoteModel

__all__ = ["Answerer", "OwnEngine", "RemoteServer", "fingerprint_of"]

#: What an answer depends on. Another value of any of these is another job. So are other types of
#: numbers and another length, which are known when the model is loaded (``Run.resolved``).
_FINGERPRINT = ("load_format", "seed")


def fingerprint_of(config: EngineConfig, rules: LineRules) -> dict[str, Any]:
    """What the answers of a job depend on, but for its input."""
    fingerprint = {name: getattr(config, name) for name in _FINGERPRINT} | rules.changes()
    adapters = {"lora": identify_adapters(config.lora)} if config.lora else {}
    return {"model": identify_model(config.model), **adapters, **fingerprint}


class Answerer(Protocol):
    """Gives lines their results."""

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the results depend on, but for the lines."""
        ...

    def answer(self, journal: Journal, output: Path, console: Console) -> bool:
        """Give every line in ``journal`` its result; whether a signal has stopped that."""
        ...


@dataclass(frozen=True, slots=True)
class OwnEngine:
    """This process."""

    config: EngineConfig
    rules: LineRules
    options: JobOptions

    @property
    def fingerprint(self) -> dict[str, Any]:
        return fingerprint_of(self.config, self.rules)

    def answer(self, journal: Journal, output: Path, console: Console) -> bool:
        """Loads the model first."""
        console.print(f"loading {self.config.model}")
        check_hub(resolve_model(self.config.model))
        # It takes seconds to import: not before there is work.
        from glinthawk.cli.job_run import answer_lines

        return answer_lines(self.config, self.rules, output, self.options, journal, console)


@dataclass(frozen=True)
class RemoteServer:
    """A server that runs already."""

    api: "BatchApi"
    remote: RemoteOptions
    options: JobOptions

    @cached_property
    def _model(self) -> "RemoteModel":
        return self.api.find_model()

    @property
    def fingerprint(self) -> dict[str, Any]:
        return {"model": self._model.id, "server": True}

    def answer(self, journal: Journal, output: Path, console: Console) -> bool:
        """Hands in what has no result, or goes on with what was handed in."""
        from glinthawk.client.server_job import ServerJob

        journal.settle({"max_model_len": self._model.max_model_len})
        meter = make_meter(quiet=console.quiet, console=console)
        total = journal.survey.num_requests
        with meter, _terminated_as_interrupted():
            job = ServerJob(
                self.api,
                journal,
                output,
                self.remote.completion_window,
                report=lambda num_done: meter.update(num_done, total, None),
                say=console.print,
            )
            if self.options.restart:
                job.begin_anew()
            return job.run()


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM does what Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
