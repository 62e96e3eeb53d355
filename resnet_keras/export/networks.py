"""A lowered model in the numbers that its servable computes in."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from resnet_keras.export.floating import emit_float
from resnet_keras.export.kernels import Kernels, kernels_of
from resnet_keras.export.operations import Dense, GlobalPool, Operation
from resnet_keras.export.quantized import SIGNED_LEVELS, Int8Graph
from resnet_keras.progress import Progress

BATCH = 32
Ends = tuple[Operation, Operation]
"""A classifier's probabilities, and the features that its logits are of."""


@dataclass(frozen=True)
class Outputs:
    """The outputs of a network, as tensors of a graph."""

    probabilities: tf.Tensor
    """float32 [N, classes]"""
    features: tf.Tensor
    """float32 [N, channels]"""
    int8_share: float = 0.0
    """Of the multiply-adds."""
    maps: tf.Tensor | None = None
    """float32 [N, h, w, channels], of which the features are the mean; None where they are something else."""
    variables: Sequence[tf.Variable] = ()
    """Kernels that are no constants of the graph."""
    values: Sequence[np.ndarray] = ()
    """Of the variables."""


def map_below(ends: Ends) -> Operation | None:
    """The map whose mean a dense head reads, alone; None for a network that ends otherwise."""
    head, features = ends
    while head.inputs and not isinstance(head, Dense):
        head = head.inputs[0]
    if head.inputs[:1] == (features,) and isinstance(features, GlobalPool) and features.kind == "mean":
        return features.inputs[0]
    return None


@dataclass(frozen=True)
class FloatNetwork:
    """A lowered model in float32 or bfloat16."""

    ends: Ends
    dtype: tf.DType
    in_files: bool = False
    """Whether kernels that are too large for constants may be variables, to be stored apart from the graph."""

    def emit(self, pixels: tf.Tensor) -> Outputs:
        """Write the network into the default graph; pixels are raw, `uint8[N, H, W, C]`."""
        kernels = kernels_of(self.ends, self.dtype) if self.in_files else Kernels()
        values = emit_float(self.ends, pixels, self.dtype, kernels)
        probabilities, features = (tf.cast(values[end], tf.float32) for end in self.ends)
        below = map_below(self.ends)
        maps = None if below is None else tf.cast(values[below], tf.float32)
        return Outputs(probabilities, features, maps=maps, variables=kernels.variables, values=kernels.values)


@dataclass(frozen=True)
class Int8Network:
    """A lowered model in int8, with the range of each of its maps."""

    ends: Ends
    ranges: Mapping[Operation, float]
    kernel_levels: int = SIGNED_LEVELS
    """As in `Int8Graph`."""
    arithmetic: type[Int8Graph] = Int8Graph
    """Or `FakeInt8Graph`, the same in float32."""

    def emit(self, pixels: tf.Tensor) -> Outputs:
        """Write the network into the default graph; pixels are raw, `uint8[N, H, W, C]`."""
        graph = self.arithmetic(self.ranges, pixels, self.kernel_levels)
        probabilities, features = graph.emit(self.ends)
        below = map_below(self.ends)
        maps = None if below is None else graph.as_float(below)
        return Outputs(probabilities, features, graph.int8_macs / graph.macs, maps)


Network = FloatNetwork | Int8Network


@dataclass(frozen=True)
class Result:
    """The outputs of a network for some images."""

    probabilities: np.ndarray
    """float32 [N, classes]"""
    int8_share: float


def run_network(network: Network, images: np.ndarray, task: Progress) -> Result:
    """Write a network into a graph of its own and run it on images `uint8[N, H, W, C]`."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        pixels = tf.compat.v1.placeholder(tf.uint8, [None, *images.shape[1:]])
        outputs = network.emit(pixels)
        parts = [session.run(outputs.probabilities, {pixels: batch}) for batch in batches(images, task)]
    return Result(np.concatenate(parts), outputs.int8_share)


def batches(images: np.ndarray, task: Progress) -> Iterator[np.ndarray]:
    """The images, `BATCH` at a time, each of which is counted when it is done."""
    for i in range(0, len(images), BATCH):
        yield (batch := images[i : i + BATCH])
        task.add(len(batch))
