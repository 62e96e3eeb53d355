"""Requests that wait together become one batch, by TensorFlow Serving's parameters (batching_session.cc)."""

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from resnet_keras.serving.config_files import Batching
from resnet_keras.serving.loaded import LoadedVersion, OutputArrays
from resnet_keras.serving.metrics import Metrics
from resnet_keras.serving.status import Code, ServingError, invalid

Key = tuple[LoadedVersion, str, tuple[str, ...], tuple[tuple[str, str, tuple[int, ...]], ...]]
"""What requests must share to be put together: the version, the signature, the outputs, each input but its rows."""


@dataclass
class Task:
    """The rows of a request, or a part of them, that wait for a batch."""

    inputs: Mapping[str, np.ndarray]
    rows: int
    since: float = field(default_factory=time.monotonic)
    outputs: "Future[OutputArrays]" = field(default_factory=Future)


@dataclass
class Batch:
    """Tasks that will run together."""

    tasks: list[Task] = field(default_factory=list)
    rows: int = 0

    def add(self, task: Task) -> None:
        self.tasks.append(task)
        self.rows += task.rows


class Batcher:
    """Runs requests in batches on threads of its own, which all models share."""

    def __init__(self, parameters: Batching, metrics: Metrics) -> None:
        self._parameters, self._metrics = parameters, metrics
        self._largest = parameters.max_execution_batch_size or parameters.max_batch_size
        self._queues: dict[Key, deque[Batch]] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._threads = [
            threading.Thread(target=self._work, name=parameters.thread_pool_name, daemon=True)
            for _ in range(parameters.num_batch_threads)
        ]
        for thread in self._threads:
            thread.start()

    def run(
        self, version: LoadedVersion, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]
    ) -> OutputArrays:
        """As `LoadedVersion.run`, in a batch with other requests.

        Raises:
            ServingError: UNAVAILABLE where the queue is full; INVALID_ARGUMENT for more rows than a batch has.
        """
        rows = _rows(inputs)
        key = (
            version,
            signature,
            tuple(sorted(outputs)),
            tuple((name, str(inputs[name].dtype), inputs[name].shape[1:]) for name in sorted(inputs)),
        )
        if rows > self._parameters.max_batch_size:
            raise invalid(f"Task size {rows} is larger than maximum input batch size {self._parameters.max_batch_size}")
        if rows > self._largest and not self._parameters.enable_large_batch_splitting:
            raise invalid(f"Task size {rows} is larger than maximum batch size {self._largest}")
        ends = [*range(self._largest, rows, self._largest), rows]
        parts = [
            Task({name: array[start:end] for name, array in inputs.items()}, end - start)
            for start, end in zip([0, *ends[:-1]], ends, strict=True)
        ]
        self._enqueue(key, parts)
        results = [part.outputs.result() for part in parts]
        if len(results) == 1:
            return results[0]
        return {name: np.concatenate([result[name] for result in results]) for name in results[0]}

    def _enqueue(self, key: Key, tasks: list[Task]) -> None:
        with self._changed:
            if self._closing:
                raise ServingError(Code.UNAVAILABLE, "the server is shutting down")
            queue = self._queues.setdefault(key, deque())
            # The last batch is open while a task fits into it.
            free = self._largest - queue[-1].rows if queue else 0
            batches = len(queue) + sum(task.rows > free for task in tasks[:1]) + len(tasks) - 1
            if batches > self._parameters.max_enqueued_batches:
                waiting = sum(len(batch.tasks) for batch in queue)
                raise ServingError(
                    Code.UNAVAILABLE,
                    f"The batch scheduling queue to which this task was submitted is full; {waiting} tasks wait in "
                    f"{len(queue)} batches",
                )
            for task in tasks:
                if not queue or queue[-1].rows + task.rows > self._largest:
                    queue.append(Batch())
                queue[-1].add(task)
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                taken = self._take()
                while taken is None:
                    if self._closing and not self._queues:
                        return
                    self._changed.wait(self._seconds_to_wait())
                    taken = self._take()
            self._process(*taken)

    def _due(self, queue: "deque[Batch]") -> float:
        """When the first batch of a queue may run: at once where it is full or others wait behind it."""
        if len(queue) > 1 or queue[0].rows >= self._largest or self._closing:
            return 0.0
        return queue[0].tasks[0].since + self._parameters.batch_timeout_micros / 1e6

    def _seconds_to_wait(self) -> float | None:
        due = [self._due(queue) for queue in self._queues.values()]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _take(self) -> tuple[Key, Batch] | None:
        """The batch that has waited longest, of those that may run."""
        now = time.monotonic()
        ready = [(queue[0].tasks[0].since, key) for key, queue in self._queues.items() if self._due(queue) <= now]
        if not ready:
            return None
        key = min(ready, key=lambda pair: pair[0])[1]
        batch = self._queues[key].popleft()
        if not self._queues[key]:
            del self._queues[key]
        else:
            self._changed.notify()
        return key, batch

    def _process(self, key: Key, batch: Batch) -> None:
        now = time.monotonic()
        for task in batch.tasks:
            self._metrics.queued(self._parameters.thread_pool_name, (now - task.since) * 1e6)
        self._run_batch(key, batch)

    def _run_batch(self, key: Key, batch: Batch) -> None:
        try:
            results = self._together(key, batch)
        except Exception as error:
            if len(batch.tasks) == 1:
                batch.tasks[0].outputs.set_exception(error)
                return
            for task in batch.tasks:  # one of them is wrong; the others must not fail for it
                self._run_batch(key, Batch([task], task.rows))
            return
        for task, outputs in zip(batch.tasks, results, strict=True):
            task.outputs.set_result(outputs)

    def _together(self, key: Key, batch: Batch) -> list[OutputArrays]:
        version, signature, names, _ = key
        sizes = [size for size in self._parameters.allowed_batch_sizes if size >= batch.rows]
        padding = min(sizes) - batch.rows if sizes else 0
        inputs = {}
        for name in batch.tasks[0].inputs:
            parts = [task.inputs[name] for task in batch.tasks]
            parts += [parts[0][:1]] * padding
            inputs[name] = np.concatenate(parts) if len(parts) > 1 else parts[0]
        self._metrics.batch(version.name, [task.rows for task in batch.tasks], batch.rows + padding)
        outputs = version.run(signature, inputs, names)
        for name, array in outputs.items():
            if not array.ndim or len(array) != batch.rows + padding:
                words = "has 0 dimensions" if not array.ndim else f"has {len(array)} rows for {batch.rows + padding}"
                raise ServingError(Code.FAILED_PRECONDITION, f"Batched output tensor {name} {words}")
        ends = np.cumsum([task.rows for task in batch.tasks])
        return [
            {name: array[end - task.rows : end] for name, array in outputs.items()}
            for task, end in zip(batch.tasks, ends, strict=True)
        ]

    def close(self) -> None:
        """Run what waits, then end the threads."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()


def _rows(inputs: Mapping[str, np.ndarray]) -> int:
    sizes = {array.shape[0] if array.ndim else None for array in inputs.values()}
    if None in sizes:
        raise invalid("Batching session Run() input tensors must have at least one dimension")
    if len(sizes) != 1:
        raise invalid("Batching session Run() input tensors must have equal 0th-dimension size")
    (rows,) = sizes
    if not rows:
        raise invalid("Batching session Run() input tensors must not be empty")
    return rows
