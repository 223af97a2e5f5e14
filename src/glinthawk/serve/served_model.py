"""The model that a server answers with: what jobs and interactive requests are read against."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glinthawk.core.config import EngineConfig
from glinthawk.core.limits import Limits
from glinthawk.core.lora import adapter_names
from glinthawk.core.source import resolve_model
from glinthawk.jobs.job import Job
from glinthawk.jobs.journal import Journal
from glinthawk.jobs.line_rules import LineRules
from glinthawk.jobs.lines import LineReader
from glinthawk.jobs.task_requests import TaskRequests
from glinthawk.jobs.text import Text
from glinthawk.tokens.generation_defaults import load_sampling_defaults
from glinthawk.tokens.pooler import Pooler, load_pooler

__all__ = ["ServedModel"]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """``fingerprint`` is what answers depend on, ``resolved`` what settings came to."""

    name: str
    fingerprint: Mapping[str, Any]
    resolved: Mapping[str, Any]
    limits: Limits
    rules: LineRules
    seed: int
    eos_token_ids: frozenset[int]
    defaults: Mapping[str, Any]
    pooler: Pooler
    #: Of jobs, whose text work is done on the engine's thread.
    job_text: Text
    #: Of interactive requests: no tokenizer is used by two threads.
    text: Text
    #: Names of LoRA adapters.
    adapters: tuple[str, ...]

    @classmethod
    def load(
        cls,
        config: EngineConfig,
        rules: LineRules,
        limits: Limits,
        resolved: Mapping[str, Any],
        fingerprint: Mapping[str, Any],
    ) -> "ServedModel":
        """The text side of what the engine has opened."""
        source, trust = resolve_model(config.model), config.trust_remote_code
        text = Text.load(source, trust)
        return cls(
            name=rules.served_model_name or config.model,
            fingerprint=fingerprint,
            resolved=resolved,
            limits=limits,
            rules=rules,
            seed=config.seed,
            eos_token_ids=text.eos_token_ids(source, trust),
            defaults=load_sampling_defaults(source) if rules.takes_defaults else {},
            pooler=load_pooler(source, trust),
            job_text=Text.load(source, trust),
            text=text,
            adapters=adapter_names(config.lora),
        )

    def job(self, journal: Journal) -> Job:
        """As ``glinthawk run`` would answer the same lines."""
        return Job(
            journal,
            Text(self.job_text.tokenizer, journal.created),
            self.limits,
            self.eos_token_ids,
            seed=self.seed,
            model_name=self.name,
            rules=self.rules,
            defaults=self.defaults,
            pooler=self.pooler,
            adapters=self.adapters,
        )

    def reader(self) -> LineReader:
        """Of interactive requests."""
        return LineReader(
            self.text,
            self.limits,
            self.name,
            self.rules,
            self.defaults,
            self.pooler,
            adapters=self.adapters,
        )

    def maker(self) -> TaskRequests:
        """Of interactive requests."""
        return TaskRequests(self.text, self.eos_token_ids, self.seed)
