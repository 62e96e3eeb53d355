"""Networks for other releases of TensorFlow, and layers that they do not know."""

import io
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from small import randomise

import resnet_keras as rk

FAMILIES: dict[str, dict[str, Any]] = {
    "resnet50_v1": {"size": 33, "blocks": (1, 2, 1, 1)},
    "resnet50": {"size": 33},
    "resnet50_v2": {"size": 33, "blocks": (1, 2, 1, 1)},
    "seresnet50": {"size": 33, "blocks": (1, 2, 1, 1)},
    "densenet121": {"size": 33, "layers": (2, 3, 2, 2)},
    "vgg11": {"hidden": 64},
    "cifar_resnet20": {},
    "convnext_tiny": {"size": 64, "blocks": (1, 1, 1, 1)},
    "vit_ti16": {"size": 64, "image_size": 64, "blocks": 4},
}
"""One of the ResNets, VGG and CIFAR at their published depths. 33 pixels leave a last map of 2x2."""


def network_of(family: str) -> keras.Model:
    """A network of ten classes, weights random."""
    options = dict(FAMILIES[family])
    size = options.pop("size", 32)
    model = rk.create_model(family, input_shape=(size, size, 3), classes=10, include_preprocessing=True, **options)
    randomise(model)
    for variable in model.variables:
        if "/se/" in variable.path:  # steep random gates double a rounding error from block to block
            variable.assign(variable * 0.1)
    return model


@keras.saving.register_keras_serializable("tests")
class WebP(keras.layers.Layer):
    """Adds the mean of a WebP image: `DecodeWebP` came with TensorFlow 2.20."""

    def call(self, x: Any) -> Any:
        return x + tf.reduce_mean(tf.cast(tf.raw_ops.DecodeWebP(contents=webp(np.zeros((4, 4, 3)))), x.dtype))


@keras.saving.register_keras_serializable("tests")
class LongShape(keras.layers.Layer):
    """Reads a list by a shape in 64 bits, which came with TensorFlow 2.21."""

    def call(self, x: Any) -> Any:
        things = tf.raw_ops.TensorListFromTensor(tensor=x[None], element_shape=tf.constant([-1, -1], tf.int64))
        shape = tf.constant([-1, -1], tf.int64)
        item = tf.raw_ops.TensorListGetItem(input_handle=things, index=0, element_shape=shape, element_dtype=x.dtype)
        return tf.ensure_shape(item, x.shape)


def classifier_with(*layers: keras.layers.Layer, size: int = 8) -> keras.Model:
    """A small classifier of Keras with these layers before its last."""
    front = [keras.Input((size, size, 3)), keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(4, 3)]
    model = keras.Sequential([*front, *layers, keras.layers.Dense(4, "softmax")])
    randomise(model)
    return model


def webp(pixels: np.ndarray) -> bytes:
    """An image `[H, W, 3]` as a WebP file without loss."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels.astype("uint8")).save(file, "WEBP", lossless=True)
    return file.getvalue()
