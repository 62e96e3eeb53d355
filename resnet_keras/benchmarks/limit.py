"""The machine's limit, measured by TensorFlow itself: products and convolutions at ResNet's shapes, and memory.

A program for a process of its own. Rates are of multiply-adds, two operations each.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from resnet_keras.benchmarks.variants import Program
from resnet_keras.export import quantized
from resnet_keras.export.operations import Convolution, Pixels
from resnet_keras.export.quantized import Int8Graph

MATRICES = ((25088, 64, 256), (6272, 512, 128), (1568, 1024, 256), (8, 2048, 1000))
"""Rows, inner and columns of ResNet-50's 1x1 convolutions and head, for eight images of 224x224."""
CONVOLUTIONS = ((56, 64), (28, 128), (14, 256), (7, 512))
"""Side and channels of its 3x3 convolutions."""
BATCH = 8
DTYPES = ("float32", "bfloat16", "int8")
BYTES = 256 << 20
"""Of an array that no cache holds."""
SECONDS = 0.12
"""For which a shape is run, in parts, of which the fastest counts."""
PARTS = 4


def limit(seconds: float = SECONDS) -> Program:
    """A program whose one call measures everything: `macs_per_second` by dtype, and `bytes_per_second`."""

    def run() -> dict[str, Any]:
        rates: dict[str, dict[str, float]] = {}
        for dtype in DTYPES:
            found = {name: macs / _fastest(call, seconds) for name, macs, call in _programs(dtype)}
            if found:
                rates[dtype] = found
        return {
            "macs_per_second": {dtype: max(found.values()) for dtype, found in rates.items()},
            "by_shape": rates,
            "bytes_per_second": _bandwidth(seconds),
            "devices": [device.name for device in tf.config.list_logical_devices()],
        }

    return Program(run)


def _programs(dtype: str) -> Iterator[tuple[str, int, Callable[[], object]]]:
    """Name, multiply-adds and call of each shape."""
    if dtype == "int8":
        if quantized.available() and not tf.config.list_physical_devices("GPU"):
            for side, channels in CONVOLUTIONS:
                yield f"conv 3x3 {side}x{side}x{channels}", _convolution_macs(side, channels), _int8(side, channels)
        return
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> tf.Tensor:
        return tf.cast(tf.constant(rng.normal(0, 0.05, shape), tf.float32), dtype)

    for rows, inner, columns in MATRICES:
        x, kernel = normal(rows, inner), normal(inner, columns)
        yield f"product {rows}x{inner}x{columns}", rows * inner * columns, _called(_product(kernel), x)
    for side, channels in CONVOLUTIONS:
        x, kernel = normal(BATCH, side, side, channels), normal(3, 3, channels, channels)
        name = f"conv 3x3 {side}x{side}x{channels}"
        yield name, _convolution_macs(side, channels), _called(_convolution(kernel), x)


def _convolution_macs(side: int, channels: int) -> int:
    return BATCH * side * side * 9 * channels * channels


def _product(kernel: tf.Tensor) -> Any:
    constant = tf.constant(kernel)
    return tf.function(lambda x: tf.linalg.matmul(x, constant))


def _convolution(kernel: tf.Tensor) -> Any:
    constant = tf.constant(kernel)
    return tf.function(lambda x: tf.nn.conv2d(x, constant, 1, "SAME"))


def _called(function: Any, x: tf.Tensor) -> Callable[[], object]:
    concrete = function.get_concrete_function(tf.TensorSpec(x.shape, x.dtype))

    def call() -> None:
        concrete(x)
        tf.test.experimental.sync_devices()

    return call


def _int8(side: int, channels: int) -> Callable[[], object]:
    """oneDNN's fused quantised convolution, as a servable in int8 has it."""
    rng, top = np.random.default_rng(0), 5000.0
    pixels = Pixels(channels=channels)
    kernel = rng.normal(0, 0.05, (3, 3, channels, channels)).astype("float32")
    layer = Convolution(
        inputs=(pixels,),
        kernel=kernel,
        channels=channels,
        bias=np.zeros(channels),
        padding=((1, 1), (1, 1)),
        activation="relu",
    )
    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        # The images stay in the graph, as a variable: fed anew, they would be copied.
        images = tf.constant(rng.integers(0, 256, (BATCH, side, side, channels), "uint8"))
        variable = tf.compat.v1.get_variable("images", initializer=images, use_resource=False)
        session.run(variable.initializer)
        graph = Int8Graph({layer: top}, tf.identity(variable), quantized.kernel_levels() or quantized.SIGNED_LEVELS)
        graph.emit([layer])
        target = graph.quantized[layer].tensor.op  # before it becomes float32
    return session.make_callable(target)


def _bandwidth(seconds: float) -> float:
    """Bytes a second that a sum of two arrays reads and writes."""
    count = BYTES // 4
    x, y = tf.ones([count]), tf.ones([count])
    add = tf.function(lambda a, b: a + b).get_concrete_function(*[tf.TensorSpec([count])] * 2)

    def call() -> None:
        add(x, y)
        tf.test.experimental.sync_devices()

    return 3 * BYTES / _fastest(call, seconds)


def _fastest(call: Callable[[], object], seconds: float) -> float:
    """Seconds of a call, by the fastest of some parts: what the machine can do, not what it did at the worst."""
    call()
    started = time.perf_counter()
    call()
    times = max(1, round(seconds / PARTS / max(time.perf_counter() - started, 1e-9)))
    found = []
    for _ in range(PARTS):
        started = time.perf_counter()
        for _ in range(times):
            call()
        found.append((time.perf_counter() - started) / times)
    return min(found)
