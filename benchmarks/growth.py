"""Time and memory by depth, width, batch, image size and replicas: points, and slopes on logarithmic axes.

A point is a process of its own, whose peak is its own. A slope of 1 is linear.
"""

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.costs import resident
from resnet_keras.benchmarks.report import Row
from resnet_keras.benchmarks.variants import Process, Program

POINT = "benchmarks.growth:point"
MARGIN = 0.1
"""By which a slope may be above the arithmetic's: a machine that others use, and caches."""
CLASSES = 10


@dataclass(frozen=True)
class Axis:
    """What grows, by which points, and how the arithmetic grows with it."""

    name: str
    """Which is the group of its rows."""
    xs: tuple[int, ...]
    arguments: tuple[dict[str, Any], ...]
    """Of `point`, one for each x."""
    time: float = 1.0
    """The exponent of the multiply-adds of a call."""
    memory: float = 1.0
    """The exponent of the maps and weights that a call has to hold."""


def _axis(name: str, xs: Sequence[int], key: str, made: Sequence[Any] | None = None, **more: Any) -> Axis:
    base, exponents = {}, {}
    for each, value in more.items():
        (exponents if each in ("time", "memory") else base)[each] = value
    return Axis(name, tuple(xs), tuple({**base, key: value} for value in made or xs), **exponents)


DEPTHS, DEEP = (20, 56, 110), (20, 110, 1202)
AXES = (
    _axis("depth, training step, batch 16", DEPTHS, "model", [f"cifar_resnet{depth}" for depth in DEPTHS], batch=16),
    _axis(
        "depth, prediction, batch 16",
        DEEP,
        "model",
        [f"cifar_resnet{depth}" for depth in DEEP],
        batch=16,
        training=False,
    ),
    # At twice the width there are four times the multiply-adds and weights, and twice the maps.
    _axis("width, training step, batch 32", (1, 2, 4), "width", batch=32, time=2.0, memory=2.0),
    _axis("batch, training step", (32, 64, 128, 256), "batch"),
    _axis("image side, training step, batch 16", (32, 64, 128), "side", batch=16, time=2.0, memory=2.0),
    _axis("replicas, training step, batch 32 of each", (1, 2, 4), "replicas", batch=32),
)
"""Of ResNet-20 for CIFAR where nothing else is said."""


def point(
    model: str = "cifar_resnet20",
    side: int = 32,
    batch: int = 32,
    width: int = 1,
    replicas: int = 1,
    training: bool = True,
) -> Program:
    """One call: seconds of a warm step or prediction, and MiB beyond what the process held before the first.

    Replicas are logical CPUs, which share the cores; `batch` is that of one.
    """
    from resnet_keras.startup import import_tensorflow

    import_tensorflow()
    import numpy as np
    import tensorflow as tf

    from resnet_keras.config.train import TrainConfig
    from resnet_keras.models.complexity import complexity, create_model
    from resnet_keras.training.devices import make_strategy
    from resnet_keras.training.state import TrainingState
    from resnet_keras.training.step import Step

    cpu = tf.config.list_physical_devices("CPU")[0]
    with contextlib.suppress(RuntimeError):
        if replicas > 1:
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    strategy = make_strategy("mirrored" if replicas > 1 else "none")
    widths = {"widths": tuple(width * filters for filters in (16, 32, 64))} if width > 1 else {}
    shape = (side, side, 3)
    with strategy.scope():
        network = create_model(model, input_shape=shape, classifier_activation=None, **widths)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch * replicas, *shape)).astype("float32")
    labels = np.eye(CLASSES, dtype="float32")[np.arange(batch * replicas) % CLASSES]
    if training:
        config = TrainConfig(batch_size=batch * replicas)
        state = TrainingState(network, config, strategy, 10_000)
        run_steps = Step(network, state, config).runner()
        dataset = tf.data.Dataset.from_tensors((images, labels)).repeat()
        batches = iter(dataset if replicas == 1 else strategy.experimental_distribute_dataset(_undivided(tf, dataset)))

        def once() -> None:
            run_steps(batches, tf.constant(1))
            state.read_totals()

    else:
        call = tf.function(lambda x: network(x, training=False))

        def once() -> None:
            call(images).numpy()

    facts = {"macs": complexity(network).macs * batch * replicas, "parameters": network.count_params()}

    def run(seconds: float) -> dict[str, Any]:
        before = resident("VmRSS")
        started = time.perf_counter()
        once()
        first = time.perf_counter() - started
        once()
        times = []
        while not times or sum(times) < seconds:
            started = time.perf_counter()
            once()
            times.append(time.perf_counter() - started)
        mib = max(0.0, resident("VmHWM") - before)
        # The fastest: other users of the machine only add to it.
        return {"images": batch * replicas, "seconds": min(times), "first": first, "mib": mib}

    return Program(run, facts=facts)


def _undivided(tf: Any, dataset: Any) -> Any:
    """A dataset whose batches are divided among the replicas, and not its files."""
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options)


@dataclass(frozen=True)
class Slopes:
    """How time and memory grow along an axis, as exponents, beside those of the arithmetic."""

    axis: str
    time: float
    memory: float
    time_of_arithmetic: float
    memory_of_arithmetic: float
    points: tuple[dict[str, float], ...] = field(default=())

    @property
    def linear(self) -> bool:
        """Whether nothing grows faster than its arithmetic, but for the margin."""
        return self.time <= self.time_of_arithmetic + MARGIN and self.memory <= self.memory_of_arithmetic + MARGIN


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The exponent of y by x, by least squares on logarithms. Of `slope([1, 2, 4], [3, 6, 12])`: 1."""
    logs = [(math.log(x), math.log(max(y, 1e-9))) for x, y in zip(xs, ys, strict=True)]
    mean_x, mean_y = (sum(values) / len(logs) for values in zip(*logs, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in logs)
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / spread if spread else 0.0


def slopes_of(rows: Sequence[Row], axes: Sequence[Axis] = AXES) -> list[Slopes]:
    """Of each axis of which there are at least two points; x by the row's name."""
    found = []
    for axis in axes:
        own = [row for row in rows if row.group == axis.name]
        if len(own) < 2:
            continue
        points = [{"x": float(row.name), "seconds": row.facts["took"], "mib": row.facts["mib"]} for row in own]
        xs = [one["x"] for one in points]
        time_slope, memory_slope = (slope(xs, [one[name] for one in points]) for name in ("seconds", "mib"))
        found.append(Slopes(axis.name, time_slope, memory_slope, axis.time, axis.memory, tuple(points)))
    return found


def processes(axes: Sequence[Axis] = AXES) -> list[tuple[str, str, Process]]:
    """(axis, x, process) of each point."""
    return [
        (axis.name, str(x), Process(POINT, arguments))
        for axis in axes
        for x, arguments in zip(axis.xs, axis.arguments, strict=True)
    ]
