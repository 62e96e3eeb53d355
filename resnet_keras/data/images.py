"""Images in a TensorFlow graph: decode, resize, crop. Training, evaluation and the servable share these."""

import functools
import math
from collections.abc import Callable

import tensorflow as tf

from resnet_keras.data.encoded import decodable, upright
from resnet_keras.errors import reason
from resnet_keras.models.card import Interpolation

LUMA = (0.299, 0.587, 0.114)
"""Red, green and blue in the brightness of a pixel (ITU-R BT.601)."""


def decode(encoded: tf.Tensor, channels: int) -> tf.Tensor:
    """A JPEG, PNG, GIF (first frame), BMP or WebP file to `uint8[H, W, channels]`; channels is 1 or 3.

    A JPEG's Exif orientation is followed. InvalidArgument errors: not such a file, a damaged one, or one that
    `decodable` refuses before it is decoded.
    """
    # TensorFlow decodes a BMP file in its own number of channels only, so grey is made of three here.
    image = tf.io.decode_image(decodable(encoded), channels=3, expand_animations=False)
    image = upright(tf.ensure_shape(image, [None, None, 3]), encoded)
    return image if channels == 3 else tf.cast(tf.round(_luma(image)), tf.uint8)


@functools.cache
def decoder(channels: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """`decode` for pipelines, traced once a process: it takes half a second, and each file would be traced twice."""
    signature = [tf.TensorSpec([], tf.string)]
    return tf.function(lambda encoded: decode(encoded, channels), signature, autograph=False)


def undecodable(error: Exception) -> str:
    """Why `decode` refused an image, in words."""
    why = reason(error)
    transparent = "Number of channels requested does not match input" in why
    return "a WebP or BMP with transparency, which is not decoded; save it without" if transparent else why


def _luma(image: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(image, tf.float32) * tf.constant(LUMA), axis=-1, keepdims=True)


def covered(size: tuple[int, int], crop: float) -> tuple[int, int]:
    """The least sides of a resized image whose centre is of `size`: whole pixels, rounded down as in torchvision."""
    height, width = (math.floor(side / crop + 1e-4) for side in size)
    return height, width


def resize_and_centre_crop(
    image: tf.Tensor, size: tuple[int, int], crop: float, interpolation: Interpolation
) -> tf.Tensor:
    """`[H, W, C]` of any size to `float32[*size, C]`: the evaluation transform.

    As if the image were resized, sides in proportion, until `size / crop` fits inside it, and the centre cut out; but
    only that centre is ever computed, so that a long thin image costs no more than another. Pixels are whole numbers,
    as the uint8 pixels of a client's own image would be.
    """
    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    scale = tf.reduce_max(tf.constant(covered(size, crop), tf.float32) / sides)
    image = tf.raw_ops.ScaleAndTranslate(
        images=tf.cast(image, tf.float32)[None],
        size=size,
        scale=tf.stack([scale, scale]),
        translation=(tf.constant(size, tf.float32) - sides * scale) / 2,
        kernel_type={"bilinear": "triangle", "bicubic": "keyscubic"}[interpolation],
        antialias=True,
    )[0]
    return tf.round(tf.clip_by_value(image, 0.0, 255.0))


def evaluated_window(sides: tuple[int, int], size: tuple[int, int], crop: float) -> tuple[float, float, float, float]:
    """The part of an image that `resize_and_centre_crop` leaves: top, left, bottom and right, in its pixels.

    Args:
        sides: height and width of the image.
        size, crop: as there.
    """
    scale = max(length / side for length, side in zip(covered(size, crop), sides, strict=True))
    height, width = (length / scale for length in size)
    top, left = (sides[0] - height) / 2, (sides[1] - width) / 2
    return top, left, top + height, left + width


def resize(image: tf.Tensor, size: tuple[int, int], interpolation: Interpolation) -> tf.Tensor:
    """Resize with antialiasing, so that a large image made small keeps what it shows; float32, 0 to 255."""
    image = tf.cast(tf.image.resize(image, size, interpolation, antialias=True), tf.float32)
    return tf.clip_by_value(image, 0.0, 255.0)
