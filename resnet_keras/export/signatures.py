"""The graph of a servable: from pixels or encoded images to probabilities, labels and features."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from resnet_keras.data.format import ImageFormat
from resnet_keras.data.images import covered, decode
from resnet_keras.export.networks import Network, Outputs
from resnet_keras.export.saved_model import Signature


@dataclass(frozen=True)
class Servable:
    """A classifier as TensorFlow Serving sees it."""

    graph: tf.Graph
    signatures: dict[str, Signature]
    variables: Sequence[tf.Variable]
    """Kernels that are no constants of the graph."""
    values: Sequence[np.ndarray]
    """Of the variables."""


def servable(
    network: Network, shape: ImageFormat, labels: tuple[str, ...], top_k: int, thresholds: tuple[float, ...] = ()
) -> Servable:
    """A graph with `serving_default`, `image_bytes`, `features` and, where the network has a map for it, `explain`.

    The network is in it once: `image` has decoded images for its default, so that a client's own pixels take their
    place. A shape is checked when a request is run, where a declared one would only be believed: a graph fed another
    rank can end the process that serves it.

    Args:
        network: the lowered model.
        shape: what the network takes, and how encoded images are brought to it.
        labels: class names, one an output.
        top_k: classes that `image_bytes` names.
        thresholds: one a label, where an image can have several: `above` says then which scores reach them.
    """
    sides: list[int | None] = [None, *shape.size, shape.channels]
    many: list[int | None] = [None]
    with tf.Graph().as_default() as graph:
        encoded = tf.compat.v1.placeholder(tf.string, name="image_bytes")
        images, sides_of, readable = decoded(_not_empty(tf.ensure_shape(encoded, many), "image_bytes"), shape)
        image = tf.compat.v1.placeholder_with_default(images, shape=None, name="image")
        outputs = network.emit(_not_empty(tf.ensure_shape(image, sides), "image"))
        probabilities = tf.identity(outputs.probabilities, "probabilities")
        features = tf.identity(outputs.features, "features")
        answered = tf.where(readable[:, None], probabilities, float("nan"))
        scores, indices = tf.math.top_k(answered, min(top_k, len(labels)))
        names = tf.where(readable[:, None], tf.gather(tf.constant(labels), indices), "")
        explained = _explained(outputs, indices, sides_of, shape)
        pixels, strings = {"image": (image, sides)}, {"image_bytes": (encoded, many)}
        named = {"labels": names, "scores": scores}
        if thresholds:
            named["above"] = scores >= tf.gather(tf.constant(thresholds, tf.float32), indices)
        signatures = {
            "serving_default": Signature(pixels, {"probabilities": probabilities}),
            "image_bytes": Signature(strings, {**named, "probabilities": answered}),
            "features": Signature(pixels, {"features": features}),
        }
        if explained is not None:
            signatures["explain"] = Signature(strings, {**named, **explained})
    return Servable(graph, signatures, outputs.variables, outputs.values)


def _not_empty(x: tf.Tensor, name: str) -> tf.Tensor:
    """oneDNN has no convolution of no images."""
    with tf.control_dependencies([tf.debugging.Assert(tf.shape(x)[0] > 0, [f"{name} holds no images"])]):
        return tf.identity(x)


def _explained(
    outputs: Outputs, indices: tf.Tensor, sides: tf.Tensor, shape: ImageFormat
) -> dict[str, tf.Tensor] | None:
    """Class activation maps (Zhou et al. 2016) of classes `indices[N, k]`, and where they lie on images `sides[N, 2]`.

    Behind a global mean and one dense layer they are Grad-CAM's, up to a factor, and need no gradient: the map weighted
    by the column of the class. The dense layer's own kernel is read, so that no weight is in the graph twice.

    Returns:
        `heat` float32 `[N, k, h, w]`, 0 to 1, and `window` float32 `[N, 4]`: top, left, bottom and right of what the
        network sees, as fractions of the upright image. None where the network is another, or its map is one pixel.
    """
    if outputs.maps is None or tuple(outputs.maps.shape[1:3]) == (1, 1):
        return None
    height, width, channels = (side or 0 for side in outputs.maps.shape.as_list()[1:])
    operation = outputs.probabilities.op
    while operation.type != "MatMul":
        operation = operation.inputs[0].op
    columns = tf.transpose(tf.gather(operation.inputs[1], indices, axis=1), (1, 2, 0))
    maps = tf.reshape(outputs.maps, (-1, height * width, channels))
    heat = tf.nn.relu(tf.matmul(tf.cast(columns, tf.float32), maps, transpose_b=True))
    heat = tf.math.divide_no_nan(heat, tf.reduce_max(heat, -1, keepdims=True))
    heat = tf.reshape(heat, (-1, indices.shape[1], height, width))
    size, whole = tf.constant(shape.size, tf.float32), tf.maximum(tf.cast(sides, tf.float32), 1)
    scale = tf.reduce_max(tf.constant(covered(shape.size, shape.card.crop), tf.float32) / whole, -1, keepdims=True)
    seen = size / scale / whole
    return {"heat": heat, "window": tf.concat([(1 - seen) / 2, (1 + seen) / 2], -1)}


def decoded(encoded: tf.Tensor, shape: ImageFormat) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Encoded images `string[N]` as `uint8[N, H, W, C]`, their own sides `[N, 2]`, and which could be read, `bool[N]`.

    One that cannot be read is black and takes nothing from the others, which may be another client's: a server puts
    requests together. Where none can be read, an InvalidArgument error is raised.
    """

    @tf.autograph.experimental.do_not_convert  # it would take half the time of an export
    def one(index: tf.Tensor, image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        whole = decode(image, shape.channels)
        return index, tf.cast(shape.evaluation_transform(whole), tf.uint8), tf.shape(whole)[:2]

    count, pixels = tf.size(encoded, out_type=tf.int64), [*shape.size, shape.channels]
    end = tf.data.Dataset.from_tensors((count, tf.zeros(pixels, tf.uint8), tf.zeros([2], tf.int32)))
    read = tf.data.Dataset.from_tensor_slices(encoded).enumerate().map(one, num_parallel_calls=tf.data.AUTOTUNE)
    # Only tf.data leaves out what fails. The end keeps the batch from being empty.
    found, images, sides = read.ignore_errors().concatenate(end).batch(count + 1).get_single_element()
    found, images, sides = found[:-1, None], images[:-1], sides[:-1]
    readable = tf.scatter_nd(found, tf.ones_like(found[:, 0], tf.int32), count[None]) > 0
    words = ["no image can be read: not a JPEG, PNG, GIF, BMP or WebP file, damaged, or of too many pixels"]
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_any(readable), words)]):
        whole = tf.scatter_nd(found, images, tf.stack([count, *pixels]))
    return whole, tf.scatter_nd(found, sides, tf.stack([count, 2])), readable
