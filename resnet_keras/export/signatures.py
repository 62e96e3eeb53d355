"""The graph of a servable: from pixels or encoded images to probabilities, labels and features."""

from dataclasses import dataclass

import tensorflow as tf

from resnet_keras.data.format import ImageFormat
from resnet_keras.export.networks import Network
from resnet_keras.export.saved_model import Signature


@dataclass(frozen=True)
class Servable:
    """A classifier as TensorFlow Serving sees it."""

    graph: tf.Graph
    signatures: dict[str, Signature]


def servable(network: Network, shape: ImageFormat, labels: tuple[str, ...], top_k: int) -> Servable:
    """A graph with the signatures `serving_default`, `image_bytes` and `features`.

    The network is in it once: `image` has decoded images for its default, so that a client's own pixels take their
    place. A shape is checked when a request is run, where a declared one would only be believed: a graph fed another
    rank can end the process that serves it.

    Args:
        network: the lowered model.
        shape: what the network takes, and how encoded images are brought to it.
        labels: class names, one an output.
        top_k: classes that `image_bytes` names.
    """
    sides: list[int | None] = [None, *shape.size, shape.channels]
    many: list[int | None] = [None]
    with tf.Graph().as_default() as graph:
        encoded = tf.compat.v1.placeholder(tf.string, name="image_bytes")
        images, readable = decoded(_not_empty(tf.ensure_shape(encoded, many), "image_bytes"), shape)
        image = tf.compat.v1.placeholder_with_default(images, shape=None, name="image")
        outputs = network.emit(_not_empty(tf.ensure_shape(image, sides), "image"))
        probabilities = tf.identity(outputs.probabilities, "probabilities")
        features = tf.identity(outputs.features, "features")
        answered = tf.where(readable[:, None], probabilities, float("nan"))
        scores, indices = tf.math.top_k(answered, min(top_k, len(labels)))
        names = tf.where(readable[:, None], tf.gather(tf.constant(labels), indices), "")
        pixels, strings = {"image": (image, sides)}, {"image_bytes": (encoded, many)}
        named = {"labels": names, "scores": scores, "probabilities": answered}
        signatures = {
            "serving_default": Signature(pixels, {"probabilities": probabilities}),
            "image_bytes": Signature(strings, named),
            "features": Signature(pixels, {"features": features}),
        }
    return Servable(graph, signatures)


def _not_empty(x: tf.Tensor, name: str) -> tf.Tensor:
    """oneDNN has no convolution of no images."""
    with tf.control_dependencies([tf.debugging.Assert(tf.shape(x)[0] > 0, [f"{name} holds no images"])]):
        return tf.identity(x)


def decoded(encoded: tf.Tensor, shape: ImageFormat) -> tuple[tf.Tensor, tf.Tensor]:
    """Encoded images `string[N]` as `uint8[N, H, W, C]`, and which of them could be read, `bool[N]`.

    One that cannot be read is black and takes nothing from the others, which may be another client's: a server puts
    requests together. Where none can be read, an InvalidArgument error is raised.
    """

    @tf.autograph.experimental.do_not_convert  # it would take half the time of an export
    def one(index: tf.Tensor, image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return index, tf.cast(shape.evaluation_transform(image), tf.uint8)

    count = tf.size(encoded, out_type=tf.int64)
    end = tf.data.Dataset.from_tensors((count, tf.zeros([*shape.size, shape.channels], tf.uint8)))
    read = tf.data.Dataset.from_tensor_slices(encoded).enumerate().map(one, num_parallel_calls=tf.data.AUTOTUNE)
    # Only tf.data leaves out what fails. The end keeps the batch from being empty.
    found, images = read.ignore_errors().concatenate(end).batch(count + 1).get_single_element()
    found, images = found[:-1, None], images[:-1]
    readable = tf.scatter_nd(found, tf.ones_like(found[:, 0], tf.int32), count[None]) > 0
    words = "no image can be read: not a JPEG, PNG, GIF, BMP or WebP file, damaged, or of too many pixels"
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_any(readable), [words])]):
        whole = tf.scatter_nd(found, images, tf.stack([count, *shape.size, shape.channels]))
    return whole, readable
