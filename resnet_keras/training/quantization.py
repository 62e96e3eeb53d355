"""Training in int8: a network whose forward pass is that of its int8 servable, in float32, with gradients.

The network stays what it is. Around it stands a layer that lowers it, as an export does, with its live weights, and
computes the operations by `FakeInt8Graph`: norms are folded into the kernels by their moving statistics, so that what
is trained is what is served.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from resnet_keras.config.train import TrainConfig
from resnet_keras.data.format import ImageFormat
from resnet_keras.data.splits import Source
from resnet_keras.errors import UsageError
from resnet_keras.export.calibration import PASSES, check_int8_pays, choose_ranges, some_images
from resnet_keras.export.fake_quantized import FakeInt8Graph
from resnet_keras.export.lowering import lower
from resnet_keras.export.operations import Convolution, maps_of
from resnet_keras.models.layers import leaves
from resnet_keras.models.pooling import Shape
from resnet_keras.models.preprocessing import card_layer
from resnet_keras.progress import progress
from resnet_keras.training.devices import host_of

IMAGES = 1024
"""That ranges are measured on: their percentiles are over all places of a map, so more change little."""


class Quantization:
    """The ranges of a network's maps, and the network in int8.

    Args:
        network: from raw pixels to probabilities. Its card is given the ranges, so that an export has them.
        ranges: one for each of `maps_of`.
        facts: for `metrics.json`.
    """

    def __init__(self, network: keras.Model, ranges: Sequence[float], facts: dict[str, Any]) -> None:
        self.network, self.facts = network, facts
        self.use(ranges)

    def use(self, ranges: Sequence[float]) -> None:
        """Take other ranges: those that a checkpoint has, before anything is computed."""
        self.ranges = tuple(ranges)
        layer = card_layer(self.network)
        assert layer is not None
        layer.card = dataclasses.replace(layer.card, int8_ranges=self.ranges)

    def in_int8(self, model: keras.Model) -> keras.Model:
        """A part of the network from its input on, in int8: the same layers, weights, input and outputs."""
        outputs = InInt8(model, self)(model.input)
        return keras.Model(model.input, outputs, name=model.name)

    def words(self) -> str:
        """What is trained and evaluated, in a line."""
        facts = self.facts
        drops = any(isinstance(layer, keras.layers.Dropout) and layer.rate for _, layer in leaves(self.network))
        off = "; dropout and stochastic depth are off" if drops else ""
        return (
            f"trains and evaluates the network in int8, {facts['share_of_macs']:.1%} of its multiply-adds, as an "
            f"export computes it: ranges up to the {facts['percentile']:g}th percentile of {facts['images']:,} "
            f"training images, batch_stats as they are{off}"
        )


class InInt8(keras.layers.Layer):
    """The outputs of a model as int8 computes them; no file has it."""

    def __init__(self, model: keras.Model, quantization: Quantization) -> None:
        super().__init__(dtype="float32")
        self.model, self.quantization = model, quantization
        self.built = True
        self._traced = tf.function(self._outputs, autograph=False, reduce_retracing=True)

    def call(self, pixels: Any) -> Any:
        if tf.executing_eagerly():  # whose weights would be constants, without gradients
            return self._traced(pixels)
        return self._outputs(pixels)

    def _outputs(self, pixels: Any) -> tf.Tensor:
        ends = lower(self.model)
        # Logits alone are lowered as probabilities are, but for what follows them.
        ranges = dict(zip(maps_of(*ends), self.quantization.ranges, strict=False))
        (outputs,) = FakeInt8Graph(ranges, tf.convert_to_tensor(pixels)).emit(ends[:1])
        return tf.cast(outputs, tf.float32)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], *self.model.output_shape[1:])


def check_quantize(config: TrainConfig, strategy: tf.distribute.Strategy, has_model: bool) -> None:
    """Raise `UsageError` for a run in int8 that cannot be; `has_model`: one was given in Python, with its weights."""
    if config.quantize is None:
        return
    if host_of(strategy)[1] > 1:
        raise UsageError("quantize is for one host; train without it on several")
    if not has_model and config.weights is None:
        raise UsageError(
            "quantize goes on from a trained network, whose maps have ranges; give --weights, such as a run folder"
        )


def quantization_of(
    config: TrainConfig, source: Source, shape: ImageFormat, network: keras.Model
) -> Quantization | None:
    """Measure the ranges of a network that begins to train in int8, on training images, as an export does.

    None without `quantize`.

    Raises:
        UsageError: a network of which next to nothing would be in int8, or data that are too few or streamed.
    """
    if config.quantize is None:
        return None
    ends = lower(network)
    share = check_int8_pays(ends, shape, network.name, "train without quantize")
    if isinstance(ends[0], Convolution):
        raise UsageError(f"quantize needs a dense layer behind the maps of {network.name}; train without it")
    images = some_images(source.train, shape, IMAGES).images
    with progress("measuring int8 ranges", PASSES * len(images)) as task:
        ranges, percentile = choose_ranges(ends, images, network.name, task, arithmetic=FakeInt8Graph)
    facts = {
        "dtype": config.quantize,
        "share_of_macs": round(share, 4),
        "percentile": percentile,
        "images": len(images),
    }
    return Quantization(network, ranges, facts)
