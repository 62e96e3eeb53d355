"""What each field of `Augmentation` does to the images, and that a batch depends on the seed and the step only."""

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from resnet_keras.config.train import Augmentation
from resnet_keras.data import augmentation as changes
from resnet_keras.data import pipeline, streams
from resnet_keras.data.format import ImageFormat
from resnet_keras.data.order import Order
from resnet_keras.data.pipeline import training_batches
from resnet_keras.data.policies import BINS, OPERATIONS, operations_of, randaugment, three_augment, trivialaugment
from resnet_keras.data.sources import open_source
from resnet_keras.data.splits import ArraySplit, RecordSplit, Source
from resnet_keras.errors import UsageError
from resnet_keras.models.card import ModelCard

RNG = np.random.default_rng(0)
FILL = np.array([90, 120, 30], "uint8")
CARD = ModelCard(mean=tuple((FILL / 255).tolist()), crop=1.0)
GREY = ModelCard(mean=(0.5,), std=(0.25,), crop=1.0)
IMAGE = RNG.integers(20, 230, (24, 20, 3), "uint8")


def key(number: int) -> tf.Tensor:
    return tf.constant([7, number], tf.int64)


def many(function: Callable[[tf.Tensor], tf.Tensor], count: int) -> np.ndarray:
    """What a function of a key gives for `count` of them."""
    dataset = tf.data.Dataset.range(count).map(lambda number: function(tf.stack([tf.constant(7, tf.int64), number])))
    return next(dataset.batch(count).as_numpy_iterator())


def source_of(images: np.ndarray, targets: np.ndarray, classes: int = 5) -> Source:
    split = ArraySplit(images, targets)
    return Source("images", tuple(map(str, range(classes))), images.shape[-1], images.shape[1:3], split, split)


def random_source(count: int = 50, size: int = 8, channels: int = 3) -> Source:
    return source_of(RNG.integers(0, 256, (count, size, size, channels), "uint8"), np.arange(count) % 5)


def flat_source(count: int = 48) -> Source:
    """Image i is all 5 i, and of a class of its own."""
    images = np.full((count, 8, 8, 3), 5 * np.arange(count)[:, None, None, None], "uint8")
    return source_of(images, np.arange(count), count)


def record_source(folder: Path, count: int = 40) -> Source:
    """Random 8x8 images in three TFRecord files; the first byte of a record is the image's number.

    They are pixels and not encoded: a decoder in each graph would take most of the time. test_data.py decodes.
    """
    rng, files = np.random.default_rng(1), []
    for part in range(3):
        files.append(str(folder / f"{part}.tfrecord"))
        with tf.io.TFRecordWriter(files[-1]) as writer:
            for i in range(part, count, 3):
                pixels = rng.integers(0, 256, (8, 8, 3), "uint8")
                writer.write(bytes([i]) + pixels.tobytes())

    def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        number = tf.io.decode_raw(tf.strings.substr(record, 0, 1), tf.uint8)[0]
        pixels = tf.io.decode_raw(tf.strings.substr(record, 1, -1), tf.uint8)
        return tf.reshape(pixels, [8, 8, 3]), tf.cast(number, tf.int64)

    split = RecordSplit(tuple(files), tuple(len(range(part, count, 3)) for part in range(3)), parse)
    return Source("records", tuple(map(str, range(count))), 3, (8, 8), split, split)


def batches(source: Source, augmentation: Augmentation, **options: Any) -> list[Any]:
    options = {"batch_size": 8, "seed": 0, "first_step": 0, "last_step": 4} | options
    shape = ImageFormat(
        options.pop("size", source.image_size or (8, 8)), source.channels, CARD if source.channels == 3 else GREY
    )
    return list(training_batches(source, shape, augmentation, **options).as_numpy_iterator())


def assert_same(ours: list, other: list) -> None:
    assert len(ours) == len(other) > 0
    for (x1, y1), (x2, y2) in zip(ours, other, strict=True):
        assert x1.dtype == x2.dtype
        np.testing.assert_array_equal(x1, x2)
        np.testing.assert_array_equal(y1, y2)


# The operations of the policies

RAND: dict[str, Any] = operations_of("rand")


def applied(name: str, amount: float, image: np.ndarray = IMAGE) -> np.ndarray:
    fill = tf.constant(FILL[: image.shape[-1]])
    place = [tf.constant([0.5, 0.5])] if OPERATIONS[name].placed else []
    return OPERATIONS[name].apply(tf.constant(image), tf.constant(amount, tf.float32), fill, *place).numpy()


def affine(coefficients: tuple[float, ...]) -> Callable[[Image.Image], Image.Image]:
    def transform(image: Image.Image) -> Image.Image:
        fill = tuple(FILL.tolist()) if image.mode == "RGB" else int(FILL[0])
        kinds = (Image.Transform.AFFINE, Image.Resampling.BILINEAR)
        return image.transform(image.size, kinds[0], coefficients, kinds[1], fillcolor=fill)

    return transform


def rotation(degrees: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.rotate(degrees, Image.Resampling.BILINEAR)


# Equalize, solarize and posterize are arithmetic of whole numbers: ours are PIL's. In the others PIL truncates where we
# round, and takes its means of rounded greys.
TONES: list[tuple[str, float, Callable[[Image.Image], Image.Image], int]] = [
    ("autocontrast", 0, lambda image: ImageOps.autocontrast(image), 1),
    ("equalize", 0, ImageOps.equalize, 0),
    ("solarize", 100, lambda image: ImageOps.solarize(image, 100), 0),
    ("solarize", 256, lambda image: ImageOps.solarize(image, 256), 0),
    ("posterize", 3, lambda image: ImageOps.posterize(image, 5), 0),
    ("posterize", 0, lambda image: image, 0),
    ("posterize_down", 6.8, lambda image: ImageOps.posterize(image, 2), 0),
    ("posterize_down", 8, lambda image: image.point(lambda value: 0), 0),
    ("invert", 0, ImageOps.invert, 0),
    ("grey", -1, lambda image: image.convert("L").convert(image.mode), 1),
    ("solarize_add", 77.9, lambda image: image.point([min(255, i + 77) if i < 128 else i for i in range(256)] * 3), 0),
]
for amount, tolerance in ((0.1, 3), (0.7, 2), (1.3, 2), (2.0, 2)):  # PIL rounds after each of its six passes
    TONES.append(("blur", amount, lambda image, a=amount: image.filter(ImageFilter.GaussianBlur(a)), tolerance))
for amount in (-0.9, 0.3, 0.99):
    TONES += [
        ("colour", amount, lambda image, a=amount: ImageEnhance.Color(image).enhance(1 + a), 2),
        ("contrast", amount, lambda image, a=amount: ImageEnhance.Contrast(image).enhance(1 + a), 2),
        ("brightness", amount, lambda image, a=amount: ImageEnhance.Brightness(image).enhance(1 + a), 1),
        ("sharpness", amount, lambda image, a=amount: ImageEnhance.Sharpness(image).enhance(1 + a), 2),
    ]


def as_pil(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image if image.shape[-1] == 3 else image[..., 0])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("name", "amount", "reference", "tolerance"), TONES)
def test_tones_are_pils(name: str, amount: float, reference: Callable, tolerance: int, channels: int) -> None:
    smooth = np.linspace(40, 180, 24 * 20).reshape(24, 20, 1) + np.array([0, 20, -30])
    for image in (IMAGE, smooth.astype("uint8"), np.full((9, 9, 3), 77, "uint8")):
        if name == "solarize_add" and channels == 1:
            continue  # PIL wants a table of another length
        image = np.ascontiguousarray(image[..., :channels])
        expected = np.array(reference(as_pil(image))).reshape(image.shape)
        np.testing.assert_allclose(applied(name, amount, image).astype(int), expected.astype(int), atol=tolerance)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("name", "amount", "reference"),
    [
        ("rotate", 30, rotation(30)),
        ("rotate", -135, rotation(-135)),
        ("shear_x", 0.3, affine((1, 0.3, 0, 0, 1, 0))),
        ("shear_y", -0.99, affine((1, 0, 0, -0.99, 1, 0))),
        ("translate_x", -0.125, affine((1, 0, -0.125 * 20, 0, 1, 0))),
        ("translate_y", 0.45, affine((1, 0, 0, 0, 1, 0.45 * 24))),
        ("translate_x_pixels", -5, affine((1, 0, -5, 0, 1, 0))),
        ("translate_y_pixels", 6.5, affine((1, 0, 0, 0, 1, 6.5))),
    ],
)
def test_warps_are_pils(name: str, amount: float, reference: Callable, channels: int) -> None:
    """But for the outermost pixel, which PIL repeats and we blend with the colour of the ground."""
    image = np.ascontiguousarray(IMAGE[..., :channels])
    expected = np.array(reference(as_pil(image))).reshape(image.shape).astype(int)
    ours = applied(name, amount, image).astype(int)
    inside = np.zeros((24, 20), "uint8")
    inside[1:-1, 1:-1] = 255
    inner = np.array(reference(Image.fromarray(inside))) == 255  # wholly from pixels that are not at the edge
    outside = np.array(reference(Image.fromarray(np.full_like(inside, 255)))) == 0
    if name.startswith(("shear", "translate")):  # there, PIL's outside is the fill of FILL[0]
        outside = np.array(reference(Image.fromarray(np.full_like(inside, 255)))) == FILL[0]
    assert inner.sum() > 80
    assert outside.sum() > 20
    np.testing.assert_allclose(ours[inner], expected[inner], atol=2)
    margin = np.abs(ours - FILL[:channels]).max(-1) > 0
    assert (margin & outside).sum() <= 24  # half a pixel around the image's edge


@settings(max_examples=30, deadline=None)
@given(name=st.sampled_from([n for n in RAND if n not in ("autocontrast", "equalize")]), seed=st.integers(0, 99))
def test_no_strength_leaves_the_image_as_it_is(name: str, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), "uint8")
    np.testing.assert_array_equal(applied(name, RAND[name].rand[0], image), image)


@pytest.mark.parametrize("name", [n for n in RAND if n not in ("identity", "autocontrast", "equalize")])
def test_more_strength_changes_more(name: str) -> None:
    smooth = np.linspace(40, 180, 24 * 20).reshape(24, 20, 1) + np.array([0, 20, -30])
    smooth = (smooth + RNG.integers(-5, 6, smooth.shape)).astype("uint8")
    start, end = RAND[name].rand
    amounts = (start + share * (end - start) for share in (0.3, 0.6, 1.0))
    distances = [np.abs(applied(name, amount, smooth).astype(float) - smooth).mean() for amount in amounts]
    assert 0 <= distances[0] < distances[1] < distances[2]


def test_ranges_are_the_published_ones() -> None:
    assert [len(operations_of(policy)) for policy in ("rand", "trivial", "increasing", "rs")] == [14, 14, 16, 17]
    ranges = {name: (row.rand, row.trivial) for name, row in OPERATIONS.items()}
    assert ranges["rotate"] == ((0, 30), (0, 135))
    assert ranges["shear_x"] == ranges["shear_y"] == ((0, 0.3), (0, 0.99))
    assert ranges["posterize"] == ((0, 4), (0, 6))
    assert ranges["solarize"] == ((256, 0), (255, 0))
    assert all(ranges[name] == ((0, 0.9), (0, 0.99)) for name in ("colour", "contrast", "brightness", "sharpness"))
    assert OPERATIONS["translate_x_pixels"].trivial == (0, 32)
    assert OPERATIONS["translate_x"].rand == (0, 0.45)


# The policies


def possible(policy: str, strengths: list[float]) -> dict[str, list[np.ndarray]]:
    """What one operation can make of IMAGE, at these strengths and of either sign."""
    found = {}
    for name, row in operations_of(policy).items():
        start, end = getattr(row, policy)
        amounts = [start + strength * (end - start) for strength in strengths]
        amounts += [-amount for amount in amounts if row.signed]
        found[name] = [applied(name, amount) for amount in amounts]
    return found


def names_of(images: np.ndarray, known: dict[str, list[np.ndarray]]) -> list[set[str]]:
    """Which operations can have made each image."""
    results = {name: np.stack(made).astype("int16") for name, made in known.items()}
    return [
        {name for name, made in results.items() if (np.abs(image - made).max((1, 2, 3)) <= 1).any()}
        for image in images.astype("int16")
    ]


def test_randaugment_draws_an_operation_for_each_image() -> None:
    """Its operations are all there, and no batch has one for all."""
    same = source_of(np.repeat(IMAGE[None], 64, 0), np.arange(64) % 5)
    augmentation = Augmentation(policy="randaugment", operations=1, magnitude=10)
    seen = [names_of(x, possible("rand", [1.0])) for x, _ in batches(same, augmentation, batch_size=32)]
    assert all(names for batch in seen for names in batch)
    assert all(len(set.union(*batch)) >= 8 for batch in seen)
    assert set.union(*(names for batch in seen for names in batch)) == set(RAND) - {"identity"}


def test_timms_operations_are_drawn() -> None:
    options: dict[str, Any] = {"operations": 1, "magnitude": 7.0, "policy": "increasing"}
    images = many(lambda k: randaugment(tf.constant(IMAGE), k, tf.constant(FILL), **options), 300)
    seen = names_of(images, possible("increasing", [0.7]))
    assert all(seen)
    assert set.union(*seen) == set(operations_of("increasing")) - {"identity"}


def test_resnet_rss_operations_are_drawn_beyond_ten() -> None:
    """Cutout's square is larger than the image."""
    options: dict[str, Any] = {"operations": 1, "magnitude": 15.0, "policy": "rs"}
    images = many(lambda k: randaugment(tf.constant(IMAGE), k, tf.constant(FILL), **options), 300)
    seen = names_of(images, possible("rs", [1.5]))
    assert all(seen)
    assert set.union(*seen) == set(operations_of("rs")) - {"identity"}


def test_solarize_and_contrast_are_the_sources() -> None:
    """ResNet-RS's thresholds are uint8, and its contrast is from the number of pixels."""
    np.testing.assert_array_equal(applied("solarize_modulo", 256), 255 - IMAGE)
    np.testing.assert_array_equal(applied("solarize_modulo", 384), applied("solarize", 128))
    np.testing.assert_array_equal(applied("posterize_up", 2.0), IMAGE & 0b11111100)
    grey = IMAGE.shape[0] * IMAGE.shape[1] // 256
    wanted = np.clip(IMAGE + 0.9 * (IMAGE.astype(float) - grey), 0, 255)
    np.testing.assert_allclose(applied("contrast_of_area", 0.9), wanted, atol=0.51)
    corner = OPERATIONS["cutout"].apply(
        tf.constant(IMAGE), tf.constant(2.9), tf.constant(FILL), tf.constant([0.0, 0.0])
    )
    assert (corner.numpy()[:2, :2] == FILL).all()
    np.testing.assert_array_equal(corner.numpy()[2:], IMAGE[2:])


def test_trivialaugment_draws_an_operation_and_a_strength_for_each_image() -> None:
    images = many(lambda k: trivialaugment(tf.constant(IMAGE), k, tf.constant(FILL)), 300)
    seen = names_of(images, possible("trivial", [i / (BINS - 1) for i in range(BINS)]))
    assert all(seen)
    assert set.union(*seen) == set(operations_of("trivial"))
    assert len({image.tobytes() for image in images}) > 120
    same = source_of(np.repeat(IMAGE[None], 64, 0), np.arange(64) % 5)
    for batch, _ in batches(same, Augmentation(policy="trivialaugment"), batch_size=32):
        assert len({image.tobytes() for image in batch}) > 16


def test_three_augment_draws_one_of_three_evenly() -> None:
    images = many(lambda k: three_augment(tf.constant(IMAGE), k, tf.constant(FILL)), 300)
    seen = names_of(images, possible("three", [i / 300 for i in range(301)]))
    assert set.union(*seen) == {"grey", "solarize", "blur"}
    for name in ("grey", "solarize", "blur"):
        assert 75 < sum(name in names for names in seen) < 125
    blurred = {image.tobytes() for image, names in zip(images, seen, strict=True) if names == {"blur"}}
    assert len(blurred) > 50
    same = source_of(np.repeat(IMAGE[None], 64, 0), np.arange(64))
    for inputs, _ in batches(same, Augmentation(policy="three-augment"), batch_size=32):
        assert len({image.tobytes() for image in inputs}) > 5


def changed_by(count: int = 200, **options: Any) -> tuple[int, int]:
    """Of so many images how many are changed, and how many different ones come out."""
    options = {"operations": 1, "magnitude": 10.0} | options
    images = many(lambda k: randaugment(tf.constant(IMAGE), k, tf.constant(FILL), **options), count)
    return int((images != IMAGE).any((1, 2, 3)).sum()), len({image.tobytes() for image in images})


def test_randaugments_fields() -> None:
    everything, kinds = changed_by()
    assert everything > 180  # autocontrast has little to do
    assert 60 < changed_by(probability=0.5)[0] < 140
    assert changed_by(probability=0.0) == (0, 1)
    assert 18 < kinds <= 22  # 13 operations, 9 of them of either sign
    assert changed_by(magnitude=5.0, magnitude_std=1.0)[1] > 100
    assert changed_by(operations=3)[1] > 100
    assert changed_by(magnitude=0.0)[1] <= 3  # as it is, autocontrast, equalize


@pytest.mark.parametrize(
    "policy",
    [
        "randaugment",
        "trivialaugment",
        "three-augment",
        # 1 s each: the tables of other strengths and orders.
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("randaugment-increasing", "randaugment-rs")),
    ],
)
def test_grey_images_have_policies_too(policy: Any) -> None:
    for images, _ in batches(random_source(channels=1), Augmentation(policy=policy)):
        assert images.shape == (8, 8, 8, 1)
        assert images.dtype == np.uint8


def test_whole_numbers_do_as_well() -> None:
    """A config may say 1 for 1.0."""
    fields: dict[str, Any] = dict.fromkeys(("min_area", "operation_probability", "magnitude", "magnitude_std"), 1)
    fields |= dict.fromkeys(("lighting", "erasing", "mixup", "cutmix", "mix_probability"), 1)
    for crop, policy in (("scale", "randaugment"), ("resized", "trivialaugment")):
        augmentation = Augmentation(crop=crop, policy=policy, scale_range=(1, 2), **fields)  # pyright: ignore[reportArgumentType]
        assert len(batches(random_source(), augmentation)) == 4


# Crops


def test_scale_cuts_the_resized_image() -> None:
    """Against tf.image.resize of the whole and every cut of it; the long side is a whole number at every scale."""
    image = RNG.integers(0, 256, (12, 24, 3), "uint8")
    whole = {n: tf.image.resize(image, (n, 2 * n), antialias=True).numpy() for n in range(8, 13)}
    crops = many(lambda k: changes.random_scaled_crop(tf.constant(image), k, (8, 8), 3, (1.0, 1.5)), 150)
    seen = []
    for crop in crops:
        found = [
            (n, top, left)
            for n, resized in whole.items()
            for top in range(n - 7)
            for left in range(2 * n - 7)
            if np.abs(resized[top : top + 8, left : left + 8] - crop).max() < 0.05
        ]
        assert len(found) == 1
        seen += found
    assert {n for n, _, _ in seen} == set(whole)
    assert min(sum(n == wanted for n, _, _ in seen) for wanted in whole) > 15  # uniform: 30 of each
    assert {(top, left) for n, top, left in seen if n == 8} >= {(0, 0), (0, 8)} or len(set(seen)) > 80


def test_scale_of_a_file_and_of_a_side_that_is_not_square() -> None:
    ramp = np.stack(np.meshgrid(np.linspace(0, 250, 90), np.linspace(0, 250, 120)), -1)
    image = np.concatenate([ramp, ramp[..., :1]], -1).astype("uint8")
    jpeg = tf.io.encode_jpeg(image)
    pixels = tf.io.decode_jpeg(jpeg)
    kinds = [pixels, tf.io.encode_png(pixels), jpeg]
    for number in range(8):
        crops = [changes.random_scaled_crop(kind, key(number), (30, 20), 3, (1.0, 2.0)).numpy() for kind in kinds]
        assert crops[0].shape == (30, 20, 3)
        np.testing.assert_array_equal(crops[0], crops[1])
        np.testing.assert_allclose(crops[0], crops[2], atol=1)  # though only a part of the JPEG is decoded
        steps = np.diff(crops[0][15, :, 0]).mean(), np.diff(crops[0][:, 10, 1]).mean()
        factor = 250 / 119 / steps[1] * 120 / 30  # how many inputs high the resized image is
        assert 0.98 < factor < 2.05
        assert steps[0] / steps[1] == pytest.approx((250 / 89) / (250 / 119), rel=0.05)  # sides in proportion


def test_each_crop_of_an_image_keeps_its_place_in_the_frame() -> None:
    source = random_source()
    plain = batches(source, Augmentation())
    for crop in ("pad", "resized", "scale"):
        other = batches(source, Augmentation(crop))
        assert all(x1.shape == x2.shape for (x1, _), (x2, _) in zip(plain, other, strict=True))
        assert any(not np.array_equal(x1, x2) for (x1, _), (x2, _) in zip(plain, other, strict=True))
        for (_, y1), (_, y2) in zip(plain, other, strict=True):
            np.testing.assert_array_equal(y1, y2)


def test_flip_mirrors_half_of_the_images() -> None:
    source = random_source()
    plain = np.concatenate([x for x, _ in batches(source, Augmentation(erasing=1e-9))])
    turned = np.concatenate([x for x, _ in batches(source, Augmentation(flip=True, erasing=1e-9))])
    kept = [np.array_equal(a, b) for a, b in zip(plain, turned, strict=True)]
    mirrored = [np.array_equal(a, b[:, ::-1]) for a, b in zip(plain, turned, strict=True)]
    assert all(a or b for a, b in zip(kept, mirrored, strict=True))
    assert 6 < sum(kept) < 26


def test_pad_of_one_image_is_a_window() -> None:
    padded = np.full((28, 24, 3), FILL, "uint8")
    padded[2:-2, 2:-2] = IMAGE
    windows = {padded[r : r + 24, c : c + 20].tobytes() for r in range(5) for c in range(5)}
    crops = many(lambda k: changes.pad_crop(tf.constant(IMAGE), k, 2, tf.constant(FILL)), 100)
    assert {crop.tobytes() for crop in crops} <= windows
    assert len({crop.tobytes() for crop in crops}) > 20


# Colours and noise


def test_jitter_scales_brightness_contrast_and_saturation() -> None:
    """The three factors can be read from the result; PIL's enhancers with those factors make the same image."""
    image = RNG.integers(90, 130, (16, 16, 3), "uint8")
    luma = np.array([0.299, 0.587, 0.114])

    def measures(image: np.ndarray) -> np.ndarray:
        tones = image @ luma
        return np.array([tones.mean(), tones.std(), (image - tones[..., None]).std()])

    results = many(lambda k: changes.jitter(tf.constant(image), k, 0.3), 100).astype(float)
    ratios = np.array([measures(result) / measures(image.astype(float)) for result in results])
    factors = np.stack([ratios[:, 0], ratios[:, 1] / ratios[:, 0], ratios[:, 2] / ratios[:, 1]], 1)
    assert factors.min() > 0.699
    assert factors.max() < 1.301
    assert np.all(factors.min(0) < 0.75)
    assert np.all(factors.max(0) > 1.25)
    assert np.abs(np.corrcoef(factors.T) - np.eye(3)).max() < 0.35  # three draws
    for result, (bright, contrast, saturation) in zip(results[:10], factors, strict=False):
        pil = ImageEnhance.Color(as_pil(image)).enhance(saturation)
        pil = ImageEnhance.Brightness(ImageEnhance.Contrast(pil).enhance(contrast)).enhance(bright)
        np.testing.assert_allclose(result, np.array(pil), atol=4)  # PIL truncates three times


def test_lighting_moves_along_the_components() -> None:
    image = np.full((4, 4, 3), 128, "uint8")
    results = many(lambda k: changes.lighting(tf.constant(image), k, 0.1), 800) - 128
    np.testing.assert_allclose(results, np.broadcast_to(results[:, :1, :1], results.shape), atol=1e-4)  # one shift
    steps = results[:, 0, 0] @ np.array(changes.COLOUR_COMPONENTS)
    np.testing.assert_allclose(steps.std(0) / (0.1 * 255), changes.COLOUR_DEVIATIONS, rtol=0.12)
    np.testing.assert_allclose(steps.mean(0) / steps.std(0), 0, atol=0.15)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_erasing_can_be_normal_noise(dtype: str) -> None:
    """timm's pixel mode: noise of mean 0 and deviation 1 for the network, so not cut to a pixel's range."""
    image, (mean, deviation) = np.full((40, 30, 3), 7, dtype), np.array([[120, 110, 100], [60, 50, 40]], "float32")
    results = many(lambda k: changes.erase(tf.constant(image), k, 0.5, tf.constant(mean), tf.constant(deviation)), 200)
    assert results.dtype == np.float32
    noise = (results[(results != 7).all(-1)] - mean) / deviation
    assert 70 < (results != 7).any((1, 2, 3)).sum() < 130
    np.testing.assert_allclose(noise.mean(0), 0, atol=0.03)
    np.testing.assert_allclose(noise.std(0), 1, atol=0.03)
    assert (np.abs(noise) > 3).mean() == pytest.approx(0.0027, rel=0.5)
    (inputs, _), *_ = batches(random_source(), Augmentation(erasing=1.0, erasing_fill="normal"))
    assert inputs.dtype == np.float32
    assert inputs.min() < 0


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_erasing_makes_a_rectangle_of_noise(dtype: str) -> None:
    image = np.full((40, 30, 3), 300 if dtype == "float32" else 0, dtype)
    results = many(lambda k: changes.erase(tf.constant(image), k, 0.5), 200)
    shares, ratios, noise = [], [], []
    for result in results:
        assert result.dtype == dtype
        changed = (result != image).any(-1)
        if changed.any():
            rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
            tall, wide = np.ptp(rows) + 1, np.ptp(columns) + 1
            inside = result[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert changed.sum() == pytest.approx(tall * wide, rel=0.01)  # noise can be as the image was
            shares.append(tall * wide / 1200)
            ratios.append(tall / wide)
            noise.append(inside.ravel())
    assert 70 < len(shares) < 130
    assert 0.01 < min(shares) < 0.08
    assert 0.27 < max(shares) < 0.36
    assert 0.2 < min(ratios) < 0.6
    assert 1.7 < max(ratios) < 4
    values = np.concatenate(noise)
    assert values.mean() == pytest.approx(127.5, abs=1)
    assert values.std() == pytest.approx(73.9, abs=1)


# Images that mix


def test_beta_has_its_moments() -> None:
    for alpha in (0.2, 1.0, 3.0):
        draws = many(lambda k, a=alpha: changes._beta(k, a), 2000)
        assert draws.min() >= 0
        assert draws.max() <= 1
        assert draws.mean() == pytest.approx(0.5, abs=0.04)
        assert draws.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.15)
    assert np.isfinite(many(lambda k: changes._beta(k, 0.001), 200)).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_labels_are_mixed_as_the_pixels_are(mixup: float, cutmix: float, smoothing: float) -> None:
    """Each image is of one value and one class: the mean of a mixed one is the mean that its label says."""
    source, steps = flat_source(), 24
    plain = batches(source, Augmentation(), last_step=steps)
    mixed = batches(source, Augmentation(mixup=mixup, cutmix=cutmix), last_step=steps, label_smoothing=smoothing)
    shares = []
    for (x, _), (images, labels) in zip(plain, mixed, strict=True):
        values, hard = x[:, 0, 0, 0].astype(float), (labels - smoothing / 48) / (1 - smoothing)
        assert images.dtype == (np.float32 if mixup else np.uint8)
        np.testing.assert_allclose(labels.sum(1), 1, rtol=1e-5)
        np.testing.assert_allclose(images.mean((1, 2, 3)), hard @ np.arange(0, 240, 5), atol=1e-2)
        partner = values[np.arange(8) ^ 1]
        own = hard[np.arange(8), (values / 5).astype(int)]
        np.testing.assert_allclose(own, own[0], atol=1e-5)  # one share a batch
        shares.append(own[0])
        uniform = np.ptp(images, (1, 2, 3)) < 1e-3
        assert uniform.all() or not uniform.any()
        if uniform.all():
            np.testing.assert_allclose(images[:, 0, 0, 0], own * values + (1 - own) * partner, atol=1e-2)
        else:
            pasted = images[..., 0] == partner[:, None, None]
            assert (pasted | (images[..., 0] == values[:, None, None])).all()
            assert (pasted == pasted[0]).all()  # one box a batch
            assert pasted[0].any(1).sum() * pasted[0].any(0).sum() == pasted[0].sum()  # a box
    assert np.std(shares) > 0.1


def test_mixes_are_tossed_for() -> None:
    source = flat_source()

    def kinds(augmentation: Augmentation) -> tuple[int, int, int]:
        """Of 60 batches how many are unmixed, by MixUp, by CutMix; those that cannot be told apart count as unmixed."""
        found = [0, 0, 0]
        for images, labels in batches(source, augmentation, last_step=60):
            mixed = (labels.max(1) < 0.9999).all()
            found[0 if not mixed else 1 if np.ptp(images[0]) < 1e-3 else 2] += 1
        return found[0], found[1], found[2]

    assert kinds(Augmentation(mixup=1.0))[2] == 0
    assert kinds(Augmentation(cutmix=1.0))[1] == 0
    _, up, cut = kinds(Augmentation(mixup=1.0, cutmix=1.0))
    assert min(up, cut) > 15
    assert 15 < kinds(Augmentation(mixup=1.0, mix_probability=0.5))[0] < 45
    assert kinds(Augmentation(mixup=1.0, mix_probability=0.0)) == (60, 0, 0)
    assert batches(source, Augmentation(mixup=1.0, mix_probability=0.0))[0][0].dtype == np.uint8


# A batch is a function of the seed and the step

EVERYTHING = {
    "windows": Augmentation("pad", 2, flip=True),
    "windows and mixes": Augmentation("pad", 2, flip=True, mixup=0.2, cutmix=1.0, repeats=3),
    "randaugment": Augmentation("pad", 2, flip=True, policy="randaugment", operations=1, erasing=0.5),
    "resized": Augmentation("resized", flip=True, policy="trivialaugment", cutmix=1.0, repeats=2),
    "scale": Augmentation("scale", flip=True, jitter=0.4, lighting=0.1, mixup=0.2),
}
DECODED = {"resized without policy": dataclasses.replace(EVERYTHING["resized"], policy="none")}
"""The policies are the same for decoded images, and take most of the time of making a graph."""

SLOW = pytest.mark.slow  # 2 to 18 s; the others go the same way, and test_data.py begins these late too
CASES = [("array", name) for name in EVERYTHING if name not in ("randaugment", "resized")]
CASES += [("records", "windows and mixes")]
SLOW_CASES = [
    pytest.param(*case, marks=SLOW)
    for case in (
        ("array", "randaugment"),
        ("array", "resized"),
        ("files", "windows"),
        ("files", "resized"),
        ("files", "resized without policy"),
        ("records", "scale"),
    )
]
LAST = 14
"""Steps of eight of fifty images: into the third epoch."""


@functools.cache
def whole_run(name: str) -> tuple[Source, list[Any]]:
    """Fifty images in memory, and all their batches."""
    source = random_source()
    return source, batches(source, EVERYTHING[name], last_step=LAST)


@pytest.mark.parametrize(("kind", "name"), [*CASES, *SLOW_CASES])
def test_shards_threads_and_beginnings_make_no_difference(
    kind: str, name: str, tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    augmentation = (EVERYTHING | DECODED)[name]
    if kind == "array":
        source, whole = whole_run(name)
    else:
        monkeypatch.setattr(pipeline, "FITS_IN_MEMORY", 0)
        monkeypatch.setattr(streams, "SHUFFLE_WINDOW", 7)  # several windows in an epoch
        source = record_source(tmp_path)
        if kind == "files":
            source = dataclasses.replace(open_source(str(image_folder)), image_size=(8, 8))
        whole = batches(source, augmentation, last_step=2 * (len(source.train) // 8) + 2)
    last = len(whole)
    assert last == 2 * (len(source.train) // 8) + 2  # into the third epoch
    first_half = batches(source, augmentation, last_step=last, shard=(0, 2))
    assert_same(first_half, [(x[:4], y[:4]) for x, y in whole])
    second_half = batches(source, augmentation, first_step=1, last_step=last, shard=(1, 2))
    assert_same(second_half, [(x[4:], y[4:]) for x, y in whole[1:]])
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    tf.random.set_seed(5)
    late = batches(source, augmentation, first_step=last - 3, last_step=last, shard=(2, 4))
    assert_same(late, [(x[4:6], y[4:6]) for x, y in whole[-3:]])


@pytest.mark.parametrize("name", EVERYTHING)
def test_another_seed_is_another_run(name: str) -> None:
    source, ours = whole_run(name)
    other = batches(source, EVERYTHING[name], seed=2**31 - 1)
    assert len(other) == 4
    assert all(not np.array_equal(x1, x2) for (x1, _), (x2, _) in zip(ours, other, strict=False))


@pytest.mark.parametrize("name", ["randaugment", "windows"])
def test_an_image_is_changed_anew_in_each_epoch_and_place(name: str) -> None:
    same = source_of(np.repeat(IMAGE[None], 16, 0), np.arange(16) % 5)
    images = np.concatenate([x for x, _ in batches(same, EVERYTHING[name])])
    assert len({image.tobytes() for image in images}) > 20


def test_one_more_change_leaves_the_draws_of_the_others() -> None:
    source = random_source()
    plain = batches(source, Augmentation("resized", flip=True))
    brighter = batches(source, Augmentation("resized", flip=True, jitter=1e-6))
    for (x1, _), (x2, _) in zip(plain, brighter, strict=True):
        np.testing.assert_allclose(x1, x2, atol=0.01)


@pytest.mark.parametrize("augmentation", EVERYTHING.values(), ids=EVERYTHING)
def test_shapes_and_kinds_are_known_beforehand(augmentation: Augmentation) -> None:
    source, shape = random_source(), ImageFormat((12, 10), 3, CARD)
    options: dict[str, Any] = {"batch_size": 8, "seed": 0, "first_step": 0, "last_step": 1, "shard": (1, 2)}
    data = training_batches(source, shape, augmentation, **options)
    images, labels = cast(Any, data.element_spec)
    assert images.shape == (4, 12, 10, 3)
    assert labels.shape == (4, 5)
    assert labels.dtype == tf.float32
    x, y = next(data.as_numpy_iterator())
    assert (x.dtype, y.dtype) == (images.dtype.as_numpy_dtype, np.float32)
    assert x.min() >= 0
    assert x.max() <= 255


def test_decoded_is_only_what_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a stream: no other shard's images are decoded, and the epochs before are not read."""
    source, decoded, read = record_source(tmp_path), [], []
    split = source.train
    assert isinstance(split, RecordSplit)

    def noted(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        number = tf.numpy_function(lambda r: decoded.append(r[0]) or r, [record], tf.string)
        return split.parse(tf.ensure_shape(number, []))

    original = tf.data.TFRecordDataset

    def counted(file: tf.Tensor) -> tf.data.Dataset:
        return original(file).map(
            lambda r: tf.ensure_shape(tf.numpy_function(lambda x: read.append(1) or x, [r], tf.string), [])
        )

    monkeypatch.setattr(tf.data, "TFRecordDataset", counted)
    source = dataclasses.replace(source, train=dataclasses.replace(split, parse=noted))
    seen = batches(source, Augmentation(), first_step=22, last_step=24, shard=(1, 4))  # epochs have five steps
    assert sum(len(x) for x, _ in seen) == len(decoded) == 4
    assert len(read) <= 40


# Repeats


@settings(max_examples=40, deadline=None)
@given(count=st.integers(4, 60), batch=st.integers(1, 4), repeats=st.integers(1, 5), seed=st.integers(0, 2**31 - 1))
def test_an_epoch_is_part_of_a_permutation(count: int, batch: int, repeats: int, seed: int) -> None:
    order = Order(count, count // batch, batch, repeats, seed)
    distinct = -(-batch // repeats)
    for epoch in (0, 3):
        steps = tf.range(order.steps * epoch, order.steps * (epoch + 1), dtype=tf.int64)
        rows = np.array([order.indices(step, np.arange(batch)) for step in steps])
        assert rows.shape == (count // batch, batch)
        for row in rows:
            assert len(set(row)) == distinct
            np.testing.assert_array_equal(row, row[np.arange(batch) % distinct])
        assert len(set(rows.ravel())) == order.steps * distinct  # none in two batches
        assert rows.min() >= 0
        assert rows.max() < count


@pytest.mark.parametrize("kind", ["array", "records"])
def test_repeated_images_are_changed_anew(kind: str, tmp_path: Path) -> None:
    source = random_source(40) if kind == "array" else record_source(tmp_path)
    augmentation = Augmentation("resized", repeats=3)
    epoch = batches(source, augmentation, last_step=5)
    assert len(epoch) == 5
    seen = []
    for (images, _), (plain, labels) in zip(epoch, batches(source, Augmentation(repeats=3), last_step=5), strict=True):
        np.testing.assert_array_equal(plain, plain[np.arange(8) % 3])
        np.testing.assert_array_equal(labels, labels[np.arange(8) % 3])
        assert len({image.tobytes() for image in images}) == 8
        seen += [image.tobytes() for image in plain[:3]]
    assert len(set(seen)) == len(seen) == 15


# What cannot be


@pytest.mark.parametrize(
    ("options", "augmentation", "message"),
    [
        ({"batch_size": 10, "shard": (0, 4)}, Augmentation(), "batch_size 10 cannot be divided by 4"),
        ({"batch_size": 6, "shard": (0, 2)}, Augmentation(mixup=0.2), "batch_size must be even .* not 3"),
        ({"batch_size": 7}, Augmentation(cutmix=1.0), "batch_size must be even .* not 7"),
        ({}, Augmentation(lighting=0.1), "lighting .* must be 0 for images of 1 channel"),
        ({}, Augmentation("pad", 9), "pad 9 is more than the 8 pixels"),
        ({"batch_size": 51}, Augmentation(), "batch_size 51 is larger than the 50 training images; give 50 or less"),
    ],
)
def test_refusals(options: dict[str, Any], augmentation: Augmentation, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        batches(random_source(channels=1), augmentation, **options)


def test_colours_of_other_than_grey_or_rgb_are_refused() -> None:
    for augmentation in (Augmentation(policy="trivialaugment"), Augmentation(jitter=0.1)):
        with pytest.raises(UsageError, match="grey or RGB images, not for 2 channels"):
            batches(random_source(channels=2), augmentation)
