"""What one image file is: its kind, its size, whether it can be read, and what tells it from others."""

import concurrent.futures
import functools
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from resnet_keras.data.encoded import orientation_of
from resnet_keras.data.images import decoder, undecodable
from resnet_keras.startup import standard_error_held

THUMB = 16
"""Sides of the small copy by which near-duplicates are found."""
KINDS = {b"\xff\xd8": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF", b"BM": "BMP", b"RIFF": "WebP"}
PALETTE, GREY_ALPHA, COLOUR_ALPHA = 3, 4, 6
"""Colour types of a PNG file."""


@dataclass(frozen=True, eq=False)
class ImageFacts:
    """What is known of one image, without its pixels."""

    size: tuple[int, int]
    """Height and width, as it stands upright."""
    kind: str
    """JPEG, PNG, GIF, BMP, WebP, or pixels for an array."""
    grey: bool
    """Red, green and blue are equal in every pixel."""
    alpha: bool
    rotated: bool
    """A JPEG whose Exif orientation turns or mirrors it."""
    file_hash: bytes
    pixel_hash: bytes
    thumb: np.ndarray
    """uint8 [16, 16, 3]"""


Content = str | bytes | np.ndarray
"""An image: the path of its file, its encoded bytes, or its pixels, uint8 [H, W, C]."""


def facts_of(contents: Iterable[Content]) -> Iterator[ImageFacts | str]:
    """The facts of each image, in order; why it cannot be used where it is damaged, in words.

    Files are read and decoded in several threads, a few images ahead of the one that is returned.
    """
    read = _reader()

    def one(content: Content) -> ImageFacts | str:
        try:
            return _facts(content, read)
        except (tf.errors.OpError, OSError) as error:
            return undecodable(error)

    workers = os.cpu_count() or 1
    with standard_error_held(), concurrent.futures.ThreadPoolExecutor(workers) as pool:  # libjpeg writes there itself
        waiting: list[concurrent.futures.Future[ImageFacts | str]] = []
        for content in contents:
            waiting.append(pool.submit(one, content))
            if len(waiting) > 4 * workers:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


def _facts(content: Content, read: Any) -> ImageFacts:
    if isinstance(content, np.ndarray):
        image, orientation, encoded, kind = content, 1, content.tobytes(), "pixels"
        thumb = _thumb(tf.constant(image if image.shape[-1] == 3 else np.repeat(image[..., :1], 3, -1)))
    else:
        encoded = tf.io.read_file(content).numpy() if isinstance(content, str) else content
        kind = next((kind for start, kind in KINDS.items() if encoded.startswith(start)), "another kind")
        image, orientation, thumb = (tensor.numpy() for tensor in read(encoded))
    height, width, channels = image.shape
    grey = channels == 1 or bool((image[..., 0] == image[..., 1]).all() and (image[..., 1] == image[..., 2]).all())
    return ImageFacts(
        (height, width),
        kind,
        grey,
        _has_alpha(encoded, kind),
        bool(orientation != 1),
        hashlib.sha256(encoded).digest()[:16],
        hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).digest()[:16],
        np.asarray(thumb),
    )


@functools.cache
def _reader() -> Any:
    def read(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        image = decoder(3)(encoded)
        return image, orientation_of(encoded), _thumb(image)

    return tf.function(read, [tf.TensorSpec([], tf.string)], autograph=False)


def _thumb(image: tf.Tensor) -> tf.Tensor:
    """The means of a grid of 16 x 16 fields."""
    return tf.cast(tf.round(tf.image.resize(image, (THUMB, THUMB), "area")), tf.uint8)


def _has_alpha(encoded: bytes, kind: str) -> bool:
    """Of a PNG file; the others cannot be decoded where they are transparent."""
    if kind != "PNG":
        return False
    colour_type = encoded[25]
    return colour_type in (GREY_ALPHA, COLOUR_ALPHA) or (colour_type == PALETTE and b"tRNS" in encoded[:4096])
