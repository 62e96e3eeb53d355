"""Batches: the answers of requests put together are those of each alone, and nobody pays for another's fault."""

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_keras.serving.batching import Batcher
from resnet_keras.serving.config_files import Batching
from resnet_keras.serving.metrics import Metrics
from resnet_keras.serving.status import Code, ServingError, invalid


class Doubling:
    """Stands for a loaded version: y = 2x, which refuses negative numbers, and remembers its batches."""

    name = "doubling"

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.entered, self.gate = threading.Event(), threading.Event()
        self.gate.set()

    def run(self, _: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        self.entered.set()
        self.gate.wait()
        self.batches.append(len(inputs["x"]))
        if (inputs["x"] < 0).any():
            raise invalid("a number is negative")
        return dict.fromkeys(outputs, inputs["x"] * 2)


def ask(batcher: Batcher, version: Any, values: Sequence[float]) -> list[float]:
    return batcher.run(version, "s", {"x": np.array(values, "float32")}, ["y"])["y"].tolist()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 100), min_size=1, max_size=9), min_size=1, max_size=12),
    st.integers(1, 8),
    st.booleans(),
)
def test_each_gets_its_own_answer(requests: list[list[int]], size: int, splitting: bool) -> None:
    settings_ = Batching(
        max_batch_size=max(size, 9) if splitting else size,
        max_execution_batch_size=size if splitting else None,
        enable_large_batch_splitting=splitting,
        batch_timeout_micros=2000,
        max_enqueued_batches=1000,
        allowed_batch_sizes=tuple(sorted({max(1, size // 2), size})),
    )
    batcher, version = Batcher(settings_, Metrics()), Doubling()
    try:
        with ThreadPoolExecutor(len(requests)) as pool:
            futures = [pool.submit(ask, batcher, version, values) for values in requests]
        for values, future in zip(requests, futures, strict=True):
            if len(values) > size and not splitting:
                with pytest.raises(ServingError, match="larger than maximum input batch size"):
                    future.result()
            else:
                assert future.result() == [2 * value for value in values]
    finally:
        batcher.close()
    assert set(version.batches) <= set(settings_.allowed_batch_sizes)


def held_up(settings_: Batching) -> tuple[Batcher, Doubling, ThreadPoolExecutor]:
    """A batcher whose only thread waits at a gate with a first request."""
    batcher, version, pool = Batcher(settings_, Metrics()), Doubling(), ThreadPoolExecutor(32)
    version.gate.clear()
    pool.submit(ask, batcher, version, [0])
    version.entered.wait()
    return batcher, version, pool


def test_those_that_wait_run_together_and_a_bad_one_alone_fails() -> None:
    batcher, version, pool = held_up(Batching(max_batch_size=8, num_batch_threads=1))
    futures = [pool.submit(ask, batcher, version, [value]) for value in (1, -1, 3)]
    while sum(batch.rows for queue in batcher._queues.values() for batch in queue) < 3:
        time.sleep(0.001)
    version.gate.set()
    assert futures[0].result() == [2]
    assert futures[2].result() == [6]
    with pytest.raises(ServingError, match="a number is negative"):
        futures[1].result()
    assert version.batches == [1, 3, 1, 1, 1]
    batcher.close()


def test_a_full_queue_refuses_and_recovers() -> None:
    batcher, version, pool = held_up(Batching(max_batch_size=1, max_enqueued_batches=2, num_batch_threads=1))
    waiting = [pool.submit(ask, batcher, version, [value]) for value in (1, 2)]
    while sum(len(queue) for queue in batcher._queues.values()) < 2:
        time.sleep(0.001)
    with pytest.raises(
        ServingError, match="The batch scheduling queue to which this task was submitted is full"
    ) as full:
        ask(batcher, version, [3])
    assert full.value.code == Code.UNAVAILABLE
    version.gate.set()
    assert [future.result() for future in waiting] == [[2], [4]]
    assert ask(batcher, version, [3]) == [6]
    batcher.close()
    with pytest.raises(ServingError, match="shutting down"):
        ask(batcher, version, [3])


def test_different_shapes_do_not_meet() -> None:
    batcher, version, pool = held_up(Batching(max_batch_size=8, num_batch_threads=1))
    shapes = [(1,), (1, 2), (1, 3)]
    arrays = [np.ones(shape, "float32") for shape in shapes]
    futures = [pool.submit(batcher.run, version, "s", {"x": array}, ["y"]) for array in arrays]  # type: ignore[arg-type]
    version.gate.set()
    assert [future.result()["y"].shape for future in futures] == shapes
    batcher.close()


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"x": np.float32(1)}, "at least one dimension"),
        ({"x": np.zeros(2), "z": np.zeros(3)}, "equal 0th-dimension size"),
        ({"x": np.zeros(0)}, "must not be empty"),
    ],
)
def test_what_has_no_rows(inputs: dict[str, np.ndarray], words: str) -> None:
    batcher = Batcher(Batching(), Metrics())
    with pytest.raises(ServingError, match=words):
        batcher.run(Doubling(), "s", inputs, ["y"])  # type: ignore[arg-type]
    batcher.close()
