"""Prometheus metrics under TensorFlow Serving's names, with colons for slashes."""

import contextlib
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest

from resnet_keras.serving.status import Code

disable_created_metrics()


def _exponential(first: float, factor: float, count: int) -> list[float]:
    return [first * factor**i for i in range(count)]


class Metrics:
    """The metrics of a server. Times are in microseconds."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        time = _exponential(10, 1.8, 33)
        sizes = [float(2**i) for i in range(15)]
        self._requests = Counter(
            ":tensorflow:serving:request_count",
            "The total number of requests.",
            ["model_name", "status"],
            registry=self._registry,
        )
        self._latency = self._histogram("request_latency", ["model_name", "API", "entrypoint"], time)
        self._runtime = self._histogram("runtime_latency", ["model_name", "API", "runtime"], time)
        self._warmup = self._histogram("model_warmup_latency", ["model_path", "status"], time)
        self._queued = self._histogram(
            "batching_session:queuing_latency", ["thread_pool_name"], _exponential(100, 1.2, 52)
        )
        self._batch = self._histogram("batching:processed_batch_size", ["model_name"], sizes)
        self._task = self._histogram("batching:input_batch_size", ["model_name"], sizes)

    def _histogram(self, name: str, labels: Iterable[str], buckets: list[float]) -> Histogram:
        text = name.replace("_", " ").replace(":", ", ")
        return Histogram(f":tensorflow:serving:{name}", text, list(labels), buckets=buckets, registry=self._registry)

    def request(self, model: str, code: Code, api: str, entrypoint: str, micros: float) -> None:
        """Count a request. `model` is "" for a model that is not served: any name would be kept in memory."""
        self._requests.labels(model, code.name).inc()
        if code == Code.OK:
            self._latency.labels(model, api, entrypoint).observe(micros)

    def run(self, model: str, micros: float) -> None:
        self._runtime.labels(model, "Predict", "TF1").observe(micros)

    def warmed_up(self, path: str, code: Code, micros: float) -> None:
        self._warmup.labels(path, code.name).observe(micros)

    def forget(self, path: str) -> None:
        """Drop the series of a version that is served no longer: there is no end to versions."""
        for code in Code:
            with contextlib.suppress(KeyError):
                self._warmup.remove(path, code.name)

    def queued(self, pool: str, micros: float) -> None:
        self._queued.labels(pool).observe(micros)

    def batch(self, model: str, tasks: Iterable[int], size: int) -> None:
        """Count a batch of `size` rows; `tasks` has the rows of each request in it."""
        self._batch.labels(model).observe(size)
        for task in tasks:
            self._task.labels(model).observe(task)

    def page(self) -> bytes:
        """The text that Prometheus reads."""
        # The client library would have counters end in _total; TensorFlow Serving's do not.
        return generate_latest(self._registry).replace(b"request_count_total", b"request_count")
