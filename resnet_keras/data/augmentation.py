"""Random changes to training pictures, each a pure function of the picture and a seed."""

import tensorflow as tf

from resnet_keras.data.images import decode, resize


def pad_crop_flip(images: tf.Tensor, seed: tf.Tensor, pad: int, fill: tf.Tensor, flip: bool) -> tf.Tensor:
    """Pad `uint8[N, H, W, C]` by `pad` pixels of colour `fill`, cut `[H, W]` out at random places, mirror at random.

    Each picture has its own place and its own mirror. Rows and columns are picked by two batched gathers, which is
    several times faster than one picture at a time. `pad=0` only mirrors.
    """
    count, height, width = (tf.shape(images)[axis] for axis in range(3))
    seeds = tf.random.split(seed, 3)
    if pad:
        edges = [[0, 0], [pad, pad], [pad, pad], [0, 0]]
        images = tf.pad(images - fill, edges) + fill  # uint8 wraps around, there and back
        rows = _offsets(count, pad, seeds[0]) + tf.range(height)
        images = tf.gather(images, rows, axis=1, batch_dims=1)
    columns = tf.tile(tf.range(width)[None], tf.stack([count, 1]))
    if flip:
        mirrored = tf.random.stateless_uniform(tf.stack([count, 1]), seeds[1], maxval=2, dtype=tf.int32) == 1
        columns = tf.where(mirrored, width - 1 - columns, columns)
    if pad:
        columns += _offsets(count, pad, seeds[2])
    return tf.gather(images, columns, axis=2, batch_dims=1)


def _offsets(count: tf.Tensor, pad: int, seed: tf.Tensor) -> tf.Tensor:
    return tf.random.stateless_uniform(tf.stack([count, 1]), seed, maxval=2 * pad + 1, dtype=tf.int32)


def random_resized_crop(
    picture: tf.Tensor, seed: tf.Tensor, size: tuple[int, int], channels: int, min_area: float, flip: bool
) -> tf.Tensor:
    """A random part of a picture, resized to `float32[*size, channels]`, 0 to 255 (Szegedy et al. 2014).

    The part has `min_area` to all of the area and sides of 3:4 to 4:3. The picture is `uint8[H, W, channels]`, or an
    encoded file; of a JPEG only that part is decoded.
    """
    seeds = tf.random.split(seed, 2)

    def part_of(shape: tf.Tensor) -> tf.Tensor:
        begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
            shape,
            tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
            seeds[0],
            min_object_covered=0.0,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(min_area, 1.0),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        return tf.concat([begin[:2], extent[:2]], 0)

    def from_jpeg() -> tf.Tensor:
        return tf.io.decode_and_crop_jpeg(picture, part_of(tf.io.extract_jpeg_shape(picture)), channels=channels)

    def from_pixels(image: tf.Tensor) -> tf.Tensor:
        top, left, height, width = tf.unstack(part_of(tf.shape(image)))
        return image[top : top + height, left : left + width]

    if picture.dtype == tf.string:
        image = tf.cond(tf.io.is_jpeg(picture), from_jpeg, lambda: from_pixels(decode(picture, channels)))
    else:
        image = from_pixels(picture)
    image = resize(tf.ensure_shape(image, [None, None, channels]), size, "bilinear")
    if flip:
        mirrored = tf.random.stateless_uniform([], seeds[1], maxval=2, dtype=tf.int32) == 1
        image = tf.cond(mirrored, lambda: image[:, ::-1], lambda: image)
    return tf.ensure_shape(image, [*size, channels])
