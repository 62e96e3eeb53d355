"""Random changes to training images, each a pure function of the image and a seed.

A seed is `int64[2]`; a function draws all that it needs from its own. Pixels are 0 to 255 all the way.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from resnet_keras.config.augmentation import Augmentation
from resnet_keras.data.encoded import orientation_of
from resnet_keras.data.images import LUMA, decoder, resize
from resnet_keras.models.card import Interpolation

ATTEMPTS, RATIO = 10, (3 / 4, 4 / 3)
"""Of random parts of images: draws until one fits, and width by height."""
WHOLE_CROP = 0.875
"""Of the shorter side, in place of the whole image where TensorFlow's draws give that."""
ERASED_AREA, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)
COLOUR_DEVIATIONS = (0.2175, 0.0188, 0.0045)
"""Of ImageNet's pixels in [0, 1] along their principal components, as fb.resnet.torch uses them."""
COLOUR_COMPONENTS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
"""A row for each of red, green and blue, a column for each component."""


def whole_below(uniform: tf.Tensor, limit: tf.Tensor) -> tf.Tensor:
    """Uniform numbers in [0, 1) to uniform whole numbers, 0 to `limit - 1`; float32."""
    return tf.floor(uniform * tf.cast(limit, tf.float32))


def dimensions(image: tf.Tensor) -> list[Any]:
    """The shape of a tensor, all of which is known before it runs."""
    return image.shape.as_list()


def blend(image: tf.Tensor, identity: float | tf.Tensor, grey: float | tf.Tensor) -> tf.Tensor:
    """So much of `float32[H, W, C]` itself plus so much of its brightness; C is 1 or 3.

    One product with a 3x3 matrix, which is several times faster than what must spread one value over the channels.
    """
    if image.shape[-1] == 1:
        return image * (identity + grey)
    matrix = identity * tf.eye(3) + grey * tf.constant(LUMA)[:, None]
    return tf.reshape(tf.linalg.matmul(tf.reshape(image, [-1, 3]), matrix), image.shape)


def along_rows(colour: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """A colour `[C]` or `[1]` as `[W * C]`, for `[H, W * C]`: TensorFlow is slow to spread a last axis of three."""
    _, width, channels = dimensions(image)
    return tf.tile(colour, [width * channels // dimensions(colour)[0]])


# Crops and mirrors


def window_draws(seed: tf.Tensor, count: int, pad: int, flip: bool) -> tf.Tensor:
    """For each of `count` images the top and the left of its window, 0 to 2 pad, and whether it is mirrored:
    `int32[count, 3]`."""
    uniform = tf.random.stateless_uniform([count, 3], seed)
    return tf.cast(whole_below(uniform, tf.constant([2 * pad + 1, 2 * pad + 1, 1 + flip])), tf.int32)


def pad_crop_flip(images: tf.Tensor, draws: tf.Tensor, pad: int, fill: tf.Tensor | None) -> tf.Tensor:
    """Pad `uint8[N, H, W, C]` by `pad` pixels of colour `fill`, cut each image's `[H, W]` out, mirror some.

    Without a `fill` the padding mirrors what is inside. `draws` are `window_draws`. Rows and columns are picked by two
    batched gathers, which is several times faster than one image at a time.
    """
    height, width = (tf.shape(images)[axis] for axis in (1, 2))
    top, left, mirrored = (draws[:, column, None] for column in range(3))
    if pad:
        images = _padded(images, [[0, 0], [pad, pad], [pad, pad], [0, 0]], fill)
        images = tf.gather(images, top + tf.range(height), axis=1, batch_dims=1)
    columns = tf.range(width)[None]
    columns = tf.where(mirrored == 1, width - 1 - columns, columns) + left
    return tf.gather(images, columns, axis=2, batch_dims=1)


def _padded(images: tf.Tensor, edges: list[list[int]], fill: tf.Tensor | None) -> tf.Tensor:
    if fill is None:
        return tf.pad(images, edges, "REFLECT")
    return tf.pad(images - fill, edges) + fill  # uint8 wraps around, there and back


def pad_crop(image: tf.Tensor, seed: tf.Tensor, pad: int, fill: tf.Tensor | None) -> tf.Tensor:
    """`pad_crop_flip` of one image, not mirrored: slices are the faster way for one."""
    height, width, channels = dimensions(image)
    top, left, _ = tf.unstack(window_draws(seed, 1, pad, flip=False)[0])
    padded = _padded(image, [[pad, pad], [pad, pad], [0, 0]], fill)
    return tf.slice(padded, [top, left, 0], [height, width, channels])


def random_flip(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Mirror `[H, W, C]` left to right with probability 0.5."""
    return tf.cond(tf.random.stateless_uniform([], seed) < 0.5, lambda: tf.reverse(image, [1]), lambda: image)


def _cut(image: tf.Tensor, channels: int, part_of: Callable[[tf.Tensor], tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """A part of `uint8[H, W, channels]` or of an encoded file, and the sides `int32[2]` of the whole.

    `part_of` goes from the sides to top, left, height and width, `int32[4]`. Of a JPEG that stands upright only the
    part is decoded.
    """

    def from_jpeg() -> tuple[tf.Tensor, tf.Tensor]:
        sides = tf.io.extract_jpeg_shape(image)[:2]
        return tf.io.decode_and_crop_jpeg(image, part_of(sides), channels=channels), sides

    def from_pixels(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        sides = tf.shape(image)[:2]
        top, left, height, width = tf.unstack(part_of(sides))
        return image[top : top + height, left : left + width], sides

    if image.dtype != tf.string:
        return from_pixels(image)
    in_parts = tf.io.is_jpeg(image) & tf.equal(orientation_of(image), 1)
    return tf.cond(in_parts, from_jpeg, lambda: from_pixels(decoder(channels)(image)))


def resized_part(sides: tf.Tensor, seed: tf.Tensor, min_area: float) -> tf.Tensor:
    """A part of an image of `sides`, as torchvision and timm draw it: top, left, height and width, `int32[4]`.

    Of ten draws the first that fits: the area uniform from `min_area` to 1, the logarithm of width by height uniform
    from 3:4 to 4:3. Where none fits, the centre, as much of it as has sides in that range. Source: timm's
    `timm/data/transforms.py`, lines 203 to 244 at aa4b585, which are torchvision's.
    """
    uniform = tf.random.stateless_uniform([4, ATTEMPTS], seed)
    height, width = tf.unstack(tf.cast(sides, tf.float32))
    area = (min_area + uniform[0] * (1 - min_area)) * height * width
    ratio = tf.exp(math.log(RATIO[0]) + uniform[1] * math.log(RATIO[1] / RATIO[0]))
    tall, wide = (tf.maximum(tf.round(tf.sqrt(sized)), 1.0) for sized in (area / ratio, area * ratio))
    fits = (tall <= height) & (wide <= width)
    first = tf.argmax(fits)
    tall, wide, down, right = (tf.gather(each, first) for each in (tall, wide, uniform[2], uniform[3]))
    top, left = whole_below(down, height - tall + 1), whole_below(right, width - wide + 1)
    all_tall, all_wide = tf.minimum(height, tf.round(width / RATIO[0])), tf.minimum(width, tf.round(height * RATIO[1]))
    centre = [(height - all_tall) // 2, (width - all_wide) // 2, all_tall, all_wide]
    return tf.cast(tf.where(tf.reduce_any(fits), tf.stack([top, left, tall, wide]), tf.stack(centre)), tf.int32)


def distorted_part(sides: tf.Tensor, seed: tf.Tensor, min_area: float) -> tf.Tensor:
    """`resized_part` as TensorFlow's `sample_distorted_bounding_box` draws it: the height is uniform, not the area.

    So the parts are smaller, but a tenth of the image or more. In place of the whole image, which is what no draw that
    fits leaves, there is the square in the centre that evaluation sees. Source: tensorflow/tpu at 7dc921f,
    `models/official/resnet/resnet_preprocessing.py`, lines 88 to 131.
    """
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.concat([sides, [3]], 0),
        tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        seed,
        min_object_covered=0.1,
        aspect_ratio_range=RATIO,
        area_range=(min_area, 1.0),
        max_attempts=ATTEMPTS,
        use_image_if_no_bounding_boxes=True,
    )
    side = tf.cast(WHOLE_CROP * tf.cast(tf.reduce_min(sides), tf.float32), tf.int32)
    centre = tf.concat([(sides - side + 1) // 2, [side, side]], 0)
    whole = tf.reduce_all(extent[:2] == sides)
    return tf.where(whole, centre, tf.concat([begin[:2], extent[:2]], 0))


def random_resized_crop(
    image: tf.Tensor,
    seed: tf.Tensor,
    size: tuple[int, int],
    channels: int,
    min_area: float,
    part: Callable[[tf.Tensor, tf.Tensor, float], tf.Tensor] = resized_part,
    interpolation: Interpolation | Literal["random"] = "bilinear",
) -> tf.Tensor:
    """A random part of an image, resized to `float32[*size, channels]`, 0 to 255 (Szegedy et al. 2014).

    The image is `uint8[H, W, channels]`, or an encoded file; of a JPEG only that part is decoded. `random` is bilinear
    or bicubic, each with probability 0.5.
    """
    image, _ = _cut(image, channels, lambda sides: part(sides, seed, min_area))
    image = tf.ensure_shape(image, [None, None, channels])
    if interpolation == "random":
        coin = tf.random.stateless_uniform([], tf.random.split(seed, 1)[0])  # a seed other than that of the part
        resized = tf.cond(coin < 0.5, lambda: resize(image, size, "bilinear"), lambda: resize(image, size, "bicubic"))
    else:
        resized = resize(image, size, interpolation)
    return tf.ensure_shape(resized, [*size, channels])


def random_scaled_crop(
    image: tf.Tensor, seed: tf.Tensor, size: tuple[int, int], channels: int, scale_range: tuple[float, ...]
) -> tf.Tensor:
    """Resize an image to a random scale and cut `float32[*size, channels]` out at random (He et al. 2015, 3.4).

    The shorter side becomes a whole number of pixels between `scale_range` times the side of `size`; where `size` is
    not square, its shorter side is what counts, and the image just covers as many times `size`. Only what is kept is
    computed, and of a JPEG decoded.
    """
    uniform, short, wanted = tf.random.stateless_uniform([3], seed), min(size), tf.constant(size, tf.float32)
    least, most = (round(share * short) for share in scale_range)
    drawn = least + whole_below(uniform[0], tf.constant(most - least + 1))

    def place(sides: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The scale, and what lies above and to the left of the cut in the resized image."""
        scale = tf.reduce_max(drawn / short * wanted / tf.cast(sides, tf.float32))
        room = tf.floor(tf.cast(sides, tf.float32) * scale - wanted + 1e-3)  # a whole number in spite of rounding
        return scale, whole_below(uniform[1:], room + 1)

    def part_of(sides: tf.Tensor) -> tf.Tensor:
        scale, offset = place(sides)
        margin = tf.math.ceil(tf.maximum(1 / scale, 1.0)) + 1  # what the resizing kernel sees beyond the cut
        begin = tf.maximum(tf.cast(tf.floor(offset / scale - margin), tf.int32), 0)
        end = tf.minimum(tf.cast(tf.math.ceil((offset + wanted) / scale + margin), tf.int32), sides)
        return tf.concat([begin, end - begin], 0)

    image, sides = _cut(image, channels, part_of)
    scale, offset = place(sides)
    image = tf.raw_ops.ScaleAndTranslate(
        images=tf.cast(image, tf.float32)[None],
        size=size,
        scale=tf.stack([scale, scale]),
        translation=tf.cast(part_of(sides)[:2], tf.float32) * scale - offset,
        kernel_type="triangle",
        antialias=True,
    )[0]
    return tf.ensure_shape(image, [*size, channels])


# Colours and noise


def jitter(image: tf.Tensor, seed: tf.Tensor, amount: float) -> tf.Tensor:
    """Scale brightness, contrast and saturation of `[H, W, C]`, each by 1 - amount to 1 + amount; float32.

    The order does not matter: but for the limits of a pixel, which are applied once at the end, the three commute.
    """
    bright, contrast, saturation = tf.unstack(tf.random.stateless_uniform([3], seed, 1 - amount, 1 + amount))
    image = tf.cast(image, tf.float32)
    mean = tf.reduce_mean(blend(image, 0.0, 1.0))
    image = blend(image, bright * contrast * saturation, bright * contrast * (1 - saturation))
    return tf.clip_by_value(image + bright * (1 - contrast) * mean, 0.0, 255.0)


def lighting(image: tf.Tensor, seed: tf.Tensor, deviation: float) -> tf.Tensor:
    """Shift the colour of `[H, W, 3]` along the principal components of ImageNet's; float32.

    Krizhevsky et al. 2012, section 4.1, with fb.resnet.torch's components.
    """
    steps = tf.random.stateless_normal([3], seed, stddev=deviation) * tf.constant(COLOUR_DEVIATIONS) * 255
    shift = tf.linalg.matvec(tf.constant(COLOUR_COMPONENTS), steps)
    rows = tf.reshape(tf.cast(image, tf.float32), [dimensions(image)[0], -1]) + along_rows(shift, image)
    return tf.reshape(tf.clip_by_value(rows, 0.0, 255.0), image.shape)


def erase(
    image: tf.Tensor,
    seed: tf.Tensor,
    probability: float,
    colour: tf.Tensor | None = None,
    deviation: tf.Tensor | None = None,
) -> tf.Tensor:
    """With that probability, a rectangle of `[H, W, C]` becomes uniform noise, or of a `colour` (Zhong et al. 2017).

    With a `deviation` it becomes normal noise about the colour, float32 and beyond 0 to 255 too.

    It has 2 to 33 % of the area and sides of 0.3 to 3.3, on a log scale; one that is longer than the image is cut to
    it, where the paper draws again.
    """
    height, width, channels = dimensions(image)
    image = image if deviation is None else tf.cast(image, tf.float32)
    seeds = tf.random.split(seed, 2)
    chance, area, ratio, *place = tf.unstack(tf.random.stateless_uniform([5], seeds[0]))

    def erased() -> tf.Tensor:
        pixels = (ERASED_AREA[0] + area * (ERASED_AREA[1] - ERASED_AREA[0])) * (height * width)
        root = tf.exp(0.5 * (np.log(ERASED_RATIO[0]) + ratio * np.log(ERASED_RATIO[1] / ERASED_RATIO[0])))
        tall = tf.clip_by_value(tf.round(tf.sqrt(pixels) * root), 1, height)
        wide = tf.clip_by_value(tf.round(tf.sqrt(pixels) / root), 1, width)
        top, left = whole_below(place[0], height - tall + 1), whole_below(place[1], width - wide + 1)
        if colour is None:
            noise = tf.random.stateless_uniform([height, width, channels], seeds[1], maxval=256, dtype=tf.int32)
        else:
            noise = tf.reshape(along_rows(colour, image), [1, width, channels])
            if deviation is not None:
                spread = tf.reshape(along_rows(deviation, image), [1, width, channels])
                noise += spread * tf.random.stateless_normal([height, width, channels], seeds[1])
        inside = box(height, width, top, left, top + tall, left + wide)
        inside = tf.tile(tf.cast(inside, image.dtype), [1, 1, channels])
        return inside * tf.cast(noise, image.dtype) + (1 - inside) * image  # faster than tf.where

    return tf.cond(chance < probability, erased, lambda: image)


def box(height: int, width: int, top: tf.Tensor, left: tf.Tensor, bottom: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """Which pixels of an image are inside: `bool[height, width, 1]`."""
    rows, columns = tf.range(float(height))[:, None], tf.range(float(width))
    return ((rows >= top) & (rows < bottom) & (columns >= left) & (columns < right))[..., None]


# Images that mix


def mix(
    images: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor, augmentation: Augmentation
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mix each image of a batch `[N, H, W, C]` with its neighbour, 2i with 2i + 1, and their targets `[N, classes]`.

    MixUp (Zhang et al. 2017) keeps a share of every pixel and takes the rest from the neighbour, CutMix (Yun et al.
    2019) takes a box of pixels. One seed makes one share and one box, for a whole batch or for any part of it. Targets
    are mixed in the proportion of the pixels that were really kept. The images come out as float32 where MixUp is
    among the choices.
    """
    count, height, width, channels = dimensions(images)
    kept = _kept([height, width], seed, augmentation)
    share = tf.reduce_mean(kept)
    neighbours = np.arange(count) ^ 1
    targets = share * targets + (1 - share) * tf.gather(targets, neighbours)
    dtype = tf.float32 if augmentation.mixup else images.dtype  # a box is all or nothing and can do with whole numbers
    flat = tf.reshape(tf.cast(images, dtype), [count, -1])  # plain rows are multiplied several times faster
    kept = tf.cast(tf.reshape(tf.tile(kept, [1, 1, channels]), [-1]), dtype)
    return tf.reshape(kept * flat + (1 - kept) * tf.gather(flat, neighbours), images.shape), targets


def _kept(sides: list[int], seed: tf.Tensor, augmentation: Augmentation) -> tf.Tensor:
    """How much of each pixel an image keeps: `float32[H, W, 1]`."""
    seeds = tf.random.split(seed, 3)
    chance, coin, *centre = tf.unstack(tf.random.stateless_uniform([4], seeds[0]))
    height, width = sides
    everything = tf.ones([height, width, 1])
    choices = []
    if augmentation.mixup:
        choices.append(everything * _beta(seeds[1], augmentation.mixup))
    if augmentation.cutmix:
        half = tf.sqrt(1 - _beta(seeds[2], augmentation.cutmix)) / 2  # of the box's sides, as a share of the image's
        edges = [
            tf.round((centre[axis] + sign * half) * side)
            for sign in (-1, 1)
            for axis, side in ((0, height), (1, width))
        ]
        choices.append(1 - tf.cast(box(height, width, *edges), tf.float32))
    mixed = choices[0] if len(choices) == 1 else tf.where(coin < 0.5, *choices)
    return tf.where(chance < augmentation.mix_probability, mixed, everything)


def _beta(seed: tf.Tensor, alpha: float) -> tf.Tensor:
    """One draw of Beta(alpha, alpha), float32, from two of Gamma, which a small alpha needs float64 for."""
    gammas = tf.random.stateless_gamma([2], seed, tf.constant(alpha, tf.float64), dtype=tf.float64)
    return tf.cast(tf.math.divide_no_nan(gammas[0], tf.reduce_sum(gammas)), tf.float32)
