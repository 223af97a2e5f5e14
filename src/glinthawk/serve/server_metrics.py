"""What a server counts, in Prometheus' text. Names are vLLM's where they mean the same."""

import time
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from glinthawk.core.sequence import Sequence
from glinthawk.serve.engine_gauges import Readings

__all__ = ["CONTENT_TYPE", "ServerMetrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class ServerMetrics:
    """Counters of everything that passes through the server; gauges are asked when they are read.

    Each has the name that stands in docs/serving.md.
    """

    def __init__(self, model_name: str) -> None:
        # When a counter began is when the server did.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._model = model_name
        self._prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts answered.")
        self._generation_tokens = self._counter("generation_tokens", "Tokens of answers.")
        self._success = self._counter(
            "request_success", "Answers, by why they ended.", "finished_reason"
        )
        self._first = self._histogram(
            "time_to_first_token_seconds", "Of streamed requests, from their arrival."
        )
        self._whole = self._histogram(
            "e2e_request_latency_seconds", "Of interactive requests, from arrival to the end."
        )
        self._http = self._counter("http_requests", "Calls answered, by status.", "code")
        self._uploaded = self._counter("uploaded_bytes", "Of files that were uploaded.")
        self._batches = self._counter("batches_ended", "Batches that have ended.", "status")
        self._aborted = self._counter("request_aborted", "Requests whose client went away.")

    def watch(self, gauges: Callable[[], Readings]) -> None:
        """Ask ``gauges`` for values by name whenever metrics are read; a mapping has a value for
        each status."""
        self._registry.register(_Gauges(gauges, self._model))

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self._registry)

    def count_call(self, status: int) -> None:
        self._http.labels(self._model, str(status)).inc()

    def count_upload(self, num_bytes: int) -> None:
        self._uploaded.labels(self._model).inc(num_bytes)

    def count_batch(self, status: str) -> None:
        self._batches.labels(self._model, status).inc()

    def count_abort(self) -> None:
        self._aborted.labels(self._model).inc()

    def count_answer(self, sequence: Sequence) -> None:
        """One that has finished, of a batch or not."""
        assert sequence.finish_reason is not None
        self._prompt_tokens.labels(self._model).inc(len(sequence.request.prompt))
        self._generation_tokens.labels(self._model).inc(len(sequence.output))
        self._success.labels(self._model, sequence.finish_reason.value).inc()

    def observe_first(self, began: float) -> None:
        """The first token of a request that came at ``began`` of ``time.monotonic``."""
        self._first.labels(self._model).observe(time.monotonic() - began)

    def observe_end(self, began: float) -> None:
        """Its end."""
        self._whole.labels(self._model).observe(time.monotonic() - began)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        names = ("model_name", *labels)
        counter = Counter(f"glinthawk:{name}", help_text, names, registry=self._registry)
        if not labels:
            counter.labels(self._model)  # it begins with 0, not with its first event
        return counter

    def _histogram(self, name: str, help_text: str) -> Histogram:
        return Histogram(
            f"glinthawk:{name}",
            help_text,
            ("model_name",),
            buckets=_SECONDS,
            registry=self._registry,
        )


class _Gauges(Collector):
    """Values that are known elsewhere."""

    def __init__(self, ask: Callable[[], Readings], model_name: str) -> None:
        self._ask, self._model = ask, model_name

    def collect(self) -> Iterator[Metric]:
        """Called for every reading."""
        for name, value in self._ask().items():
            labels = ["model_name"] + ["status"] * isinstance(value, Mapping)
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = kind(f"glinthawk:{name}", name.replace("_", " "), labels=labels)
            values = value if isinstance(value, Mapping) else {None: value}
            for status, one in values.items():
                family.add_metric([self._model, *([status] if status else [])], one)
            yield family
