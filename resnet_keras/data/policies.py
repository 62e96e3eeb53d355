"""RandAugment, TrivialAugment, 3-Augment: operations drawn for each image, as pure functions of it and a seed.

An operation takes `uint8[H, W, C]`, C 1 or 3, an amount (scalar float32) and the colour that fills what is bared
(`uint8[C]` or `[1]`), and gives `uint8[H, W, C]`. They are those of PIL, which the papers used, with bilinear warps;
ResNet-RS has some of its own.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tensorflow as tf

from resnet_keras.data.augmentation import along_rows, blend, box, dimensions, whole_below

BINS = 31
"""Strengths that trivialaugment draws from, from none to all."""


def _pixels(image: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.minimum(tf.maximum(image, 0.0), 255.0) + 0.5, tf.uint8)


# Tones


def _identity(image: tf.Tensor, amount: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    return image


def _autocontrast(image: tf.Tensor, amount: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    """Stretch each channel to 0 to 255; one of a single value stays."""
    height, width, channels = dimensions(image)
    rows = tf.reshape(tf.cast(image, tf.float32), [height, -1])
    low = tf.reduce_min(tf.reshape(tf.reduce_min(rows, 0), [width, channels]), 0)
    high = tf.reduce_max(tf.reshape(tf.reduce_max(rows, 0), [width, channels]), 0)
    scale = tf.where(high > low, 255.0 / tf.maximum(high - low, 1.0), 1.0)
    shift = tf.where(high > low, -low * scale, 0.0)
    return tf.reshape(_pixels(rows * along_rows(scale, image) + along_rows(shift, image)), image.shape)


def _equalize(image: tf.Tensor, amount: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    """Make each channel's histogram as even as whole pixels allow, by PIL's very arithmetic."""
    channels = dimensions(image)[-1]
    places = tf.cast(image, tf.int32) + 256 * tf.range(channels)  # a table for each channel, one after the other
    counts = tf.raw_ops.DenseBincount(
        input=tf.reshape(places, [-1]), size=256 * channels, weights=tf.constant([], tf.int32), binary_output=False
    )
    counts = tf.reshape(counts, [channels, 256])
    below = tf.cumsum(counts, axis=1, exclusive=True)
    step = tf.reduce_max(tf.where(counts > 0, below, 0), axis=1, keepdims=True) // 255
    table = tf.where(step > 0, (step // 2 + below) // tf.maximum(step, 1), tf.range(256))
    return tf.cast(tf.gather(tf.reshape(tf.minimum(table, 255), [-1]), places), tf.uint8)


def _solarize(image: tf.Tensor, amount: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    """Invert the pixels that are not below the amount."""
    values = tf.cast(image, tf.float32)
    return _pixels(tf.abs(values - 255 * tf.cast(values >= amount, tf.float32)))  # faster than tf.where


def _posterize(image: tf.Tensor, amount: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    """Clear that many of the lowest bits, rounded."""
    return tf.bitwise.bitwise_and(image, tf.cast(256 - tf.pow(2.0, tf.round(amount)), tf.uint8))


def _posterize_down(image: tf.Tensor, amount: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    """Clear that many of the lowest bits, rounded down."""
    return _posterize(image, tf.floor(amount), fill)


def _invert(image: tf.Tensor, amount: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    return 255 - image


def _solarize_add(image: tf.Tensor, amount: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    """Add the amount, rounded down, to the pixels below 128."""
    values = tf.cast(image, tf.float32)
    return _pixels(values + tf.floor(amount) * tf.cast(values < 128, tf.float32))


# Enhancements: an amount of 0 changes nothing, one of -1 takes the quality away.


def _colour(image: tf.Tensor, amount: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    return _pixels(blend(tf.cast(image, tf.float32), 1 + amount, -amount))


def _contrast(image: tf.Tensor, amount: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    values = tf.cast(image, tf.float32)
    return _pixels(values + amount * (values - tf.round(tf.reduce_mean(blend(values, 0.0, 1.0)))))


def _brightness(image: tf.Tensor, amount: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    values = tf.cast(image, tf.float32)
    return _pixels(values + amount * values)


def _sharpness(image: tf.Tensor, amount: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    """Away from the mean of the 3x3 around each pixel, in which itself counts five times; the edges stay."""
    values = tf.cast(image, tf.float32)
    mean = tf.nn.avg_pool2d(values[None], 3, 1, "VALID")[0]
    detail = 9 / 13 * (values[1:-1, 1:-1] - mean)
    return _pixels(values + amount * tf.pad(detail, [[1, 1], [1, 1], [0, 0]]))


# Warps


def _warp(
    image: tf.Tensor,
    matrix: Sequence[Sequence[float | tf.Tensor]],
    shift: Sequence[float | tf.Tensor],
    fill: tf.Tensor,
    interpolation: str = "BILINEAR",
) -> tf.Tensor:
    """Each pixel comes from `matrix` times its place (x, y) plus `shift`; `fill` from outside."""
    (a, b), (c, d) = matrix
    colour = tf.reshape(along_rows(tf.cast(fill, tf.float32), image), [1, *dimensions(image)[1:]])
    values = tf.cast(image, tf.float32) - colour  # the kernel has fills of one number only
    warped = tf.raw_ops.ImageProjectiveTransformV3(
        images=values[None],
        transforms=tf.stack([a, b, shift[0], c, d, shift[1], 0.0, 0.0])[None],
        output_shape=image.shape[:2],
        fill_value=0.0,
        interpolation=interpolation,
        fill_mode="CONSTANT",
    )[0]
    return _pixels(tf.ensure_shape(warped, image.shape) + colour)


def _rotate(image: tf.Tensor, amount: tf.Tensor, fill: tf.Tensor, interpolation: str = "BILINEAR") -> tf.Tensor:
    """About the centre, by degrees."""
    angle, y, x = amount * (math.pi / 180), (dimensions(image)[0] - 1) / 2, (dimensions(image)[1] - 1) / 2
    cos, sin = tf.cos(angle), tf.sin(angle)
    return _warp(image, [[cos, -sin], [sin, cos]], [x - cos * x + sin * y, y - sin * x - cos * y], fill, interpolation)


def _shear_x(image: tf.Tensor, amount: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    """Along x by that share of y, from the upper left corner, which is half a pixel off the first pixel's centre."""
    return _warp(image, [[1.0, amount], [0.0, 1.0]], [amount / 2, 0.0], fill)


def _shear_y(image: tf.Tensor, amount: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    return _warp(image, [[1.0, 0.0], [amount, 1.0]], [0.0, amount / 2], fill)


def _translate_x(image: tf.Tensor, amount: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    """By a share of the width."""
    return _warp(image, [[1.0, 0.0], [0.0, 1.0]], [amount * dimensions(image)[1], 0.0], fill)


def _translate_y(image: tf.Tensor, amount: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    return _warp(image, [[1.0, 0.0], [0.0, 1.0]], [0.0, amount * dimensions(image)[0]], fill)


def _translate_x_pixels(image: tf.Tensor, amount: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    return _translate_x(image, amount / dimensions(image)[1], fill)


def _translate_y_pixels(image: tf.Tensor, amount: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    return _translate_y(image, amount / dimensions(image)[0], fill)


def _blur(image: tf.Tensor, amount: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    """PIL's Gaussian blur of that deviation, at most 2: three means in turn along each side, the edges repeated.

    A mean weighs its two outermost pixels less, so that the three have just that variance (Gwosdek et al. 2011).
    """
    variance = amount**2 / 3
    whole = tf.floor((tf.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    reach = tf.abs(tf.range(-2.0, 3.0))  # a deviation of 2 has less than two whole pixels on each side
    weights = tf.where(reach <= whole, 1.0, tf.where(reach == whole + 1, part, 0.0)) / (2 * (whole + part) + 1)

    def along(length: int) -> tf.Tensor:
        places = tf.clip_by_value(tf.range(length)[:, None] + tf.range(-2, 3), 0, length - 1)
        mean = tf.einsum("ijk,j->ik", tf.one_hot(places, length), weights)
        return mean @ mean @ mean

    height, width, channels = dimensions(image)
    rows = along(height) @ tf.reshape(tf.cast(image, tf.float32), [height, width * channels])
    return _pixels(tf.linalg.matmul(along(width), tf.reshape(rows, [height, width, channels])))


# What ResNet-RS has of its own


def _solarize_modulo(image: tf.Tensor, amount: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    """The amount, rounded down, as `uint8`: at magnitude 10 it is 256, which comes to 0 and inverts every pixel."""
    return _solarize(image, tf.math.floormod(tf.floor(amount), 256.0), fill)


def _posterize_up(image: tf.Tensor, amount: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    """Clear that many of the lowest bits, rounded up: what is kept is rounded down."""
    return _posterize(image, tf.math.ceil(amount), fill)


def _contrast_of_area(image: tf.Tensor, amount: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    """Away from one grey for all images: the number of pixels by 256, not their mean, as in the source."""
    height, width, _ = dimensions(image)
    values = tf.cast(image, tf.float32)
    return _pixels(values + amount * (values - float(min(height * width // 256, 255))))


def _shear_x_nearest(image: tf.Tensor, amount: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    """From the centre of the first pixel."""
    return _warp(image, [[1.0, amount], [0.0, 1.0]], [0.0, 0.0], fill, "NEAREST")


def _shear_y_nearest(image: tf.Tensor, amount: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    return _warp(image, [[1.0, 0.0], [amount, 1.0]], [0.0, 0.0], fill, "NEAREST")


def _cutout(image: tf.Tensor, amount: tf.Tensor, fill: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    """A square of `fill` with that many pixels on each side of a place `float32[2]`, a share of height and width."""
    height, width, channels = dimensions(image)
    half, (down, right) = tf.floor(amount), tf.unstack(whole_below(place, tf.constant([height, width])))
    inside = tf.tile(box(height, width, down - half, right - half, down + half, right + half), [1, 1, channels])
    return tf.where(inside, tf.reshape(along_rows(fill, image), [1, width, channels]), image)


# Policies

Range = tuple[float, float] | None
"""The amounts at no strength and at full strength; None where a policy does without the operation."""


@dataclass(frozen=True)
class ImageOperation:
    """One way to change an image, and its amounts in each policy."""

    apply: Callable[..., tf.Tensor]
    rand: Range = (0.0, 0.0)
    """For randaugment: torchvision's fourteen, rising from the image as it is."""
    trivial: Range = (0.0, 0.0)
    """For trivialaugment: the paper's wide ranges."""
    increasing: Range = (0.0, 0.0)
    """For randaugment-increasing: timm's `rand-...-inc1`, `timm/data/auto_augment.py` at aa4b585, lines 186 to 277 and
    641 to 658."""
    rs: Range = None
    """For randaugment-rs: ResNet-RS's, `models/official/efficientnet/autoaugment.py` of tensorflow/tpu at 7dc921f,
    lines 93 to 447 and 477 to 532. At magnitude 10, which is not the greatest."""
    three: Range = None
    """For three-augment: DeiT III's, `augment.py` of facebookresearch/deit at 7e160fe, lines 24 to 70."""
    signed: bool = False
    """Whether the amount may as well be negative."""
    placed: bool = False
    """Whether it takes a random place too, `float32[2]`."""


OPERATIONS = {
    "identity": ImageOperation(_identity, rs=(0, 0)),
    "autocontrast": ImageOperation(_autocontrast, rs=(0, 0)),
    "equalize": ImageOperation(_equalize, rs=(0, 0)),
    "rotate": ImageOperation(_rotate, (0, 30), (0, 135), (0, 30), signed=True),
    "solarize": ImageOperation(_solarize, (256, 0), (255, 0), (256, 0), three=(128, 128)),
    "colour": ImageOperation(_colour, (0, 0.9), (0, 0.99), (0, 0.9), signed=True),
    "posterize": ImageOperation(_posterize, (0, 4), (0, 6), None),
    "contrast": ImageOperation(_contrast, (0, 0.9), (0, 0.99), (0, 0.9), signed=True),
    "brightness": ImageOperation(_brightness, (0, 0.9), (0, 0.99), (0, 0.9), signed=True),
    "sharpness": ImageOperation(_sharpness, (0, 0.9), (0, 0.99), (0, 0.9), signed=True),
    "shear_x": ImageOperation(_shear_x, (0, 0.3), (0, 0.99), (0, 0.3), signed=True),
    "shear_y": ImageOperation(_shear_y, (0, 0.3), (0, 0.99), (0, 0.3), signed=True),
    "translate_x": ImageOperation(_translate_x, (0, 0.45), None, (0, 0.45), signed=True),
    "translate_y": ImageOperation(_translate_y, (0, 0.45), None, (0, 0.45), signed=True),
    "translate_x_pixels": ImageOperation(_translate_x_pixels, None, (0, 32), None, signed=True),
    "translate_y_pixels": ImageOperation(_translate_y_pixels, None, (0, 32), None, signed=True),
    "posterize_down": ImageOperation(_posterize_down, None, None, (4, 8)),  # four bits are left, then none
    "invert": ImageOperation(_invert, None, None, rs=(0, 0)),
    "solarize_add": ImageOperation(_solarize_add, None, None, (0, 110), (0, 110)),
    "rotate_nearest": ImageOperation(
        functools.partial(_rotate, interpolation="NEAREST"), None, None, None, (0, 30), signed=True
    ),
    "solarize_modulo": ImageOperation(_solarize_modulo, None, None, None, (0, 256)),
    "posterize_up": ImageOperation(_posterize_up, None, None, None, (8, 4)),
    "colour_one_way": ImageOperation(_colour, None, None, None, (-0.9, 0.9)),
    "contrast_of_area": ImageOperation(_contrast_of_area, None, None, None, (-0.9, 0.9)),
    "brightness_one_way": ImageOperation(_brightness, None, None, None, (-0.9, 0.9)),
    "sharpness_one_way": ImageOperation(_sharpness, None, None, None, (-0.9, 0.9)),
    "shear_x_nearest": ImageOperation(_shear_x_nearest, None, None, None, (0, 0.3), signed=True),
    "shear_y_nearest": ImageOperation(_shear_y_nearest, None, None, None, (0, 0.3), signed=True),
    "translate_x_hundred": ImageOperation(_translate_x_pixels, None, None, None, (0, 100), signed=True),
    "translate_y_hundred": ImageOperation(_translate_y_pixels, None, None, None, (0, 100), signed=True),
    "cutout": ImageOperation(_cutout, None, None, None, (0, 40), placed=True),
    "grey": ImageOperation(_colour, None, None, None, three=(-1, -1)),
    "blur": ImageOperation(_blur, None, None, None, three=(0.1, 2)),
}
"""By name; the identity comes first."""


def operations_of(policy: str) -> dict[str, ImageOperation]:
    """Those that a policy draws from: the identity first, which `three` is without."""
    return {name: row for name, row in OPERATIONS.items() if getattr(row, policy) is not None}


def randaugment(
    image: tf.Tensor,
    seed: tf.Tensor,
    fill: tf.Tensor,
    *,
    operations: int,
    magnitude: float,
    magnitude_std: float = 0.0,
    probability: float = 1.0,
    policy: str = "rand",
) -> tf.Tensor:
    """Some operations, one after the other, drawn with replacement from all but the identity (Cubuk et al. 2019).

    Each has the strength `magnitude` of 10, or one drawn around it, and is left out with 1 - `probability`. The
    operations are those of `policy`, `rand`, `increasing` or `rs`; only `rs` goes beyond 10.
    """
    known = operations_of(policy)
    seeds = tf.random.split(seed, 3)
    uniform = tf.random.stateless_uniform([operations, 3], seeds[0])
    chosen = 1 + whole_below(uniform[:, 0], tf.constant(len(known) - 1))
    chosen = tf.cast(tf.where(uniform[:, 1] < probability, chosen, 0.0), tf.int32)
    strengths = tf.fill([operations], float(magnitude))
    if magnitude_std:
        strengths += tf.random.stateless_normal([operations], seeds[1], stddev=magnitude_std)
    strengths = tf.maximum(strengths / 10, 0.0) if policy == "rs" else tf.clip_by_value(strengths / 10, 0.0, 1.0)
    amounts = _amounts(known, policy, chosen, strengths, uniform[:, 2])
    places = tf.random.stateless_uniform([operations, 2], seeds[2])
    for i in range(operations):
        image = _apply(known, image, chosen[i], amounts[i], fill, places[i])
    return image


def trivialaugment(image: tf.Tensor, seed: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    """One operation of any strength, of the wide space (Müller & Hutter 2021)."""
    known, uniform = operations_of("trivial"), tf.random.stateless_uniform([1, 3], seed)
    chosen = tf.cast(whole_below(uniform[:, 0], tf.constant(len(known))), tf.int32)
    strengths = whole_below(uniform[:, 1], tf.constant(BINS)) / (BINS - 1)
    amounts = _amounts(known, "trivial", chosen, strengths, uniform[:, 2])
    return _apply(known, image, chosen[0], amounts[0], fill)


def three_augment(image: tf.Tensor, seed: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    """One of three: grey, the brighter half inverted, or blurred by 0.1 to 2 pixels (Touvron et al. 2022)."""
    known, uniform = operations_of("three"), tf.random.stateless_uniform([1, 2], seed)
    chosen = tf.cast(whole_below(uniform[:, 0], tf.constant(len(known))), tf.int32)
    amounts = _amounts(known, "three", chosen, uniform[:, 1], uniform[:, 1])
    return _apply(known, image, chosen[0], amounts[0], fill)


Operations = dict[str, ImageOperation]


def _amounts(known: Operations, policy: str, chosen: tf.Tensor, strengths: tf.Tensor, coins: tf.Tensor) -> tf.Tensor:
    """The amounts `float32[n]` of the chosen operations at strengths 0 to 1, or beyond; coins are tossed for signs."""
    ranges = [getattr(row, policy) for row in known.values()]
    start, end = (tf.gather(tf.constant(column, tf.float32), chosen) for column in zip(*ranges, strict=True))
    signed = tf.gather(tf.constant([row.signed for row in known.values()]), chosen)
    amounts = start + strengths * (end - start)
    return tf.where(signed & (coins < 0.5), -amounts, amounts)


def _apply(
    known: Operations,
    image: tf.Tensor,
    chosen: tf.Tensor,
    amount: tf.Tensor,
    fill: tf.Tensor,
    place: tf.Tensor | None = None,
) -> tf.Tensor:
    """Only the chosen operation runs."""

    def branch(operation: ImageOperation) -> Callable[[], tf.Tensor]:
        return lambda: operation.apply(image, amount, fill, *([place] if operation.placed else []))

    changed = tf.switch_case(chosen, [branch(operation) for operation in known.values()])
    return tf.ensure_shape(changed, image.shape)
