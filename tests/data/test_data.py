"""Sources and batches."""

import dataclasses
import io
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from display_log import DisplayLog
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_keras.config.train import Augmentation
from resnet_keras.data import folder as folder_module
from resnet_keras.data import pipeline, tfds_source
from resnet_keras.data.augmentation import (
    distorted_part,
    pad_crop,
    pad_crop_flip,
    random_resized_crop,
    resized_part,
    window_draws,
)
from resnet_keras.data.format import ImageFormat
from resnet_keras.data.identity import identity_of
from resnet_keras.data.images import decode, resize_and_centre_crop
from resnet_keras.data.pipeline import evaluation_batches, training_batches
from resnet_keras.data.sources import open_source
from resnet_keras.data.splits import ArraySplit, FileSplit, RecordSplit, Source, channel_statistics, hold_out
from resnet_keras.errors import UsageError
from resnet_keras.models.card import ModelCard
from resnet_keras.progress import shown_by

RNG = np.random.default_rng(0)
CARD = ModelCard(mean=(0.5,), std=(0.25,), crop=1.0)


def array_source(count: int = 50, size: int = 6) -> Source:
    """Images that are told apart by their brightness: image i is all i."""
    images = np.broadcast_to(np.arange(count, dtype="uint8")[:, None, None, None], (count, size, size, 1)).copy()
    split = ArraySplit(images, np.arange(count) % 5)
    return Source("numbers", tuple("abcde"), 1, (size, size), split, split)


def numbers(batches: tf.data.Dataset) -> list[list[int]]:
    return [[int(image[0, 0, 0]) for image in images.numpy()] for images, _ in batches]


def batches_of(source: Source, augmentation: Augmentation | None = None, **options: Any) -> tf.data.Dataset:
    shape = ImageFormat(source.image_size or (16, 16), source.channels, dataclasses.replace(CARD))
    options = {"batch_size": 8, "seed": 0, "first_step": 0, "last_step": 3 * (len(source.train) // 8)} | options
    return training_batches(source, shape, augmentation or Augmentation(), **options)


def test_digits_are_scikit_learns(data_dir: str) -> None:
    from sklearn.datasets import load_digits

    source = open_source("digits", data_dir)
    assert isinstance(source.train, ArraySplit)
    assert isinstance(source.test, ArraySplit)
    assert (len(source.train), len(source.test), source.image_size, source.channels) == (1437, 360, (8, 8), 1)
    assert source.labels == tuple("0123456789")
    assert np.bincount(source.test.targets).min() >= 34  # stratified: a fifth of 174 to 183 each
    ours = np.concatenate([source.train.images, source.test.images])
    known = np.round(load_digits().images[..., None] * 255 / 16).astype("uint8")
    assert sorted(image.tobytes() for image in ours) == sorted(image.tobytes() for image in known)


def test_an_epoch_is_every_image_once_in_an_order_of_its_own() -> None:
    epochs = np.array(numbers(batches_of(array_source(48)))).reshape(3, 48)
    for epoch in epochs:
        assert sorted(epoch) == list(range(48))
        assert list(epoch) != list(range(48))
    assert list(epochs[0]) != list(epochs[1])


def test_the_incomplete_batch_is_dropped_and_labels_belong() -> None:
    batches = list(batches_of(array_source(50), label_smoothing=0.1))
    assert len(batches) == 3 * (50 // 8)
    for images, labels in batches:
        np.testing.assert_array_equal(np.argmax(labels, -1), images.numpy()[:, 0, 0, 0] % 5)
        np.testing.assert_allclose(np.sort(labels)[:, [0, -1]], [[0.02, 0.92]] * 8, rtol=1e-6)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), first=st.integers(0, 17))
def test_a_batch_is_a_function_of_seed_and_step(seed: int, first: int) -> None:
    options = {"augmentation": Augmentation("pad", 2, flip=True), "seed": seed}
    source = ArraySplit(RNG.integers(0, 256, (50, 6, 6, 1), "uint8"), np.arange(50) % 5)
    source = dataclasses.replace(array_source(), train=source)
    whole, rest = list(batches_of(source, **options)), list(batches_of(source, **options, first_step=first))
    assert len(rest) == len(whole) - first
    for (x1, y1), (x2, y2) in zip(whole[first:], rest, strict=True):
        np.testing.assert_array_equal(x1, x2)
        np.testing.assert_array_equal(y1, y2)


def test_another_seed_is_another_order() -> None:
    assert numbers(batches_of(array_source())) != numbers(batches_of(array_source(), seed=1))


def test_pad_crop_flip_is_a_window_of_the_padded_image() -> None:
    images = RNG.integers(0, 256, (64, 5, 7, 3), "uint8")
    fill = np.array([9, 8, 7], "uint8")
    draws = window_draws(tf.constant([1, 2], tf.int64), 64, 2, flip=True)
    out = pad_crop_flip(tf.constant(images), draws, 2, tf.constant(fill)).numpy()
    padded = np.full((64, 9, 11, 3), fill, "uint8")
    padded[:, 2:-2, 2:-2] = images
    places = set()
    for i in range(64):
        windows = {
            (row, column, mirrored): padded[i, row : row + 5, column : column + 7][:, :: -1 if mirrored else 1]
            for row in range(5)
            for column in range(5)
            for mirrored in (False, True)
        }
        found = [place for place, window in windows.items() if np.array_equal(window, out[i])]
        assert found
        places.add(found[0])
    assert len(places) > 25  # of 50 places, 64 draws: each image has its own


def test_without_padding_only_the_mirror_is_random() -> None:
    images = RNG.integers(0, 256, (40, 4, 4, 1), "uint8")
    draws = window_draws(tf.constant([0, 0], tf.int64), 40, 0, flip=True)
    out = pad_crop_flip(tf.constant(images), draws, 0, tf.constant([0], tf.uint8)).numpy()
    kept = [np.array_equal(a, b) for a, b in zip(out, images, strict=True)]
    turned = [np.array_equal(a, b[:, ::-1]) for a, b in zip(out, images, strict=True)]
    assert np.all(np.logical_or(kept, turned))
    assert 5 < sum(kept) < 35  # a fair coin, 40 times


def test_padding_by_reflection() -> None:
    """As numpy reflects, in a batch and one image at a time."""
    images = np.random.default_rng(0).integers(0, 256, (40, 6, 8, 3)).astype("uint8")
    draws = window_draws(tf.constant([0, 3], tf.int64), 40, 2, flip=False).numpy()
    out = pad_crop_flip(tf.constant(images), tf.constant(draws), 2, None).numpy()
    for made, image, (top, left, _) in zip(out, images, draws, strict=True):
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), "reflect")
        np.testing.assert_array_equal(made, padded[top : top + 6, left : left + 8])
    seed = tf.constant([0, 5], tf.int64)
    (top, left, _), one = window_draws(seed, 1, 2, flip=False).numpy()[0], images[0]
    padded = np.pad(one, ((2, 2), (2, 2), (0, 0)), "reflect")
    np.testing.assert_array_equal(pad_crop(tf.constant(one), seed, 2, None), padded[top : top + 6, left : left + 8])


@pytest.mark.parametrize("encode", [tf.io.encode_jpeg, tf.io.encode_png])
def test_random_resized_crop(encode) -> None:
    ramp = np.linspace(0, 255, 200).astype("uint8")
    image = encode(np.broadcast_to(ramp[None, :, None], (100, 200, 3)).copy())
    crops = [random_resized_crop(image, tf.constant([0, i], tf.int64), (16, 16), 3, 0.1).numpy() for i in range(20)]
    assert all(crop.shape == (16, 16, 3) for crop in crops)
    rises = [crop[8, -1, 0] - crop[8, 0, 0] for crop in crops]
    assert min(rises) > 0
    assert np.ptp(rises) > 50  # parts of different size
    again = random_resized_crop(image, tf.constant([0, 3], tf.int64), (16, 16), 3, 0.1)
    np.testing.assert_array_equal(again, crops[3])


def test_a_part_is_resized_bilinearly_or_bicubically_by_a_fair_coin() -> None:
    image = tf.constant(np.random.default_rng(0).integers(0, 256, (40, 40, 3)), tf.uint8)

    def crop(i: int, interpolation: Any) -> np.ndarray:
        seed = tf.constant([0, i], tf.int64)
        return random_resized_crop(image, seed, (16, 16), 3, 0.1, interpolation=interpolation).numpy()

    kinds = ("bilinear", "bicubic")
    drawn = [[bool((crop(i, "random") == crop(i, kind)).all()) for kind in kinds] for i in range(40)]
    assert all(sum(row) == 1 for row in drawn)
    assert 8 < sum(row[0] for row in drawn) < 32


def parts_of(sides: tuple[int, int], part: Any, count: int) -> np.ndarray:
    """`[count, 4]`: top, left, height and width, each of a seed of its own."""
    numbers = tf.data.Dataset.range(count)
    parts = numbers.map(lambda number: part(tf.constant(sides), tf.stack([tf.constant(0, tf.int64), number]), 0.08))
    return next(iter(parts.batch(count))).numpy()


def drawn_by_definition(sides: tuple[int, int], count: int) -> np.ndarray:
    """What `resized_part` says, one draw after the other."""
    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        for _ in range(10):
            area, ratio = rng.uniform(0.08, 1) * sides[0] * sides[1], np.exp(rng.uniform(*np.log([3 / 4, 4 / 3])))
            tall, wide = round(np.sqrt(area / ratio)), round(np.sqrt(area * ratio))
            if tall <= sides[0] and wide <= sides[1]:
                found.append((rng.integers(sides[0] - tall + 1), rng.integers(sides[1] - wide + 1), tall, wide))
                break
        else:
            tall, wide = min(sides[0], round(sides[1] * 4 / 3)), min(sides[1], round(sides[0] * 4 / 3))
            found.append(((sides[0] - tall) // 2, (sides[1] - wide) // 2, tall, wide))
    return np.array(found)


def largest_gap(one: np.ndarray, other: np.ndarray) -> float:
    """Kolmogorov and Smirnov's statistic of two samples."""
    values = np.sort(np.concatenate([one, other]))
    shares = [np.searchsorted(np.sort(sample), values, "right") / len(sample) for sample in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


@pytest.mark.parametrize("sides", [(375, 500), (100, 100), (60, 300), (300, 60)])
def test_a_random_part_is_drawn_as_torchvision_and_timm_draw_it(sides: tuple[int, int]) -> None:
    count = 4000
    ours, theirs = parts_of(sides, resized_part, count), drawn_by_definition(sides, count)
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= sides).all()
    limit = 1.95 * np.sqrt(2 / count)  # one of a thousand samples is farther off
    for name in range(4):
        assert largest_gap(ours[:, name], theirs[:, name]) < limit
    for measure in (lambda p: p[:, 2] * p[:, 3], lambda p: p[:, 3] / p[:, 2]):
        assert largest_gap(measure(ours), measure(theirs)) < limit
    if sides == (375, 500):  # TensorFlow's parts are smaller
        areas = [part.prod(1) / np.prod(sides) for part in (ours[:, 2:], parts_of(sides, distorted_part, 1000)[:, 2:])]
        assert areas[0].mean() > 0.41
        assert areas[1].mean() < 0.41


def test_where_no_draw_fits_tensorflows_recipes_take_the_centre() -> None:
    """As much of it as evaluation: no part of 60x300 has the sides and the area."""
    part = distorted_part(tf.constant((60, 300)), tf.constant([0, 0], tf.int64), 1.0)
    assert part.numpy().tolist() == [4, 124, 52, 52]


def test_jpeg_and_png_give_the_same_parts() -> None:
    """The JPEG is decoded in part, the PNG whole; what is seen is the same."""
    smooth = np.outer(np.linspace(0, 250, 96), np.ones(64))[..., None] * np.ones(3)
    smooth = smooth.astype("uint8")
    seed = tf.constant([5, 5], tf.int64)
    jpeg, png = (
        random_resized_crop(encoded, seed, (8, 8), 3, 0.2)
        for encoded in (tf.io.encode_jpeg(smooth, quality=100), tf.io.encode_png(smooth))
    )
    np.testing.assert_allclose(jpeg, png, atol=3)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 31), (40, 17), (3, 5)])
def test_evaluation_crop_keeps_the_centre(height: int, width: int) -> None:
    image = RNG.integers(0, 256, (height, width, 3), "uint8")
    out = resize_and_centre_crop(tf.constant(image), (8, 8), 1.0, "bilinear").numpy()
    assert out.shape == (8, 8, 3)
    assert out.min() >= 0
    assert out.max() <= 255
    np.testing.assert_array_equal(out, np.round(out))
    if (height, width) == (8, 8):
        np.testing.assert_array_equal(out, image)


def test_crop_share() -> None:
    image = np.zeros((32, 32, 1), "uint8")
    image[4:28, 4:28] = 255  # the central three quarters of each side
    out = resize_and_centre_crop(tf.constant(image), (24, 24), 0.75, "bilinear").numpy()
    assert out.min() == 255


def test_decode_kinds() -> None:
    from PIL import Image

    pixels = RNG.integers(0, 256, (6, 4, 3), "uint8")
    for kind in ("PNG", "BMP", "GIF", "WEBP", "JPEG"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
        image = decode(tf.constant(buffer.getvalue()), 3).numpy()
        assert image.shape == (6, 4, 3)
        if kind in ("PNG", "BMP", "WEBP"):
            np.testing.assert_array_equal(image, pixels)
        grey = decode(tf.constant(buffer.getvalue()), 1).numpy()
        np.testing.assert_allclose(grey[..., 0], image @ [0.299, 0.587, 0.114], atol=0.51)


@pytest.mark.parametrize(("height", "width"), [(1, 60_000), (60_000, 1)])
def test_a_long_thin_image_costs_no_more_than_another(height: int, width: int) -> None:
    """Resized first and cropped then, it would take 44 GiB."""
    out = resize_and_centre_crop(tf.ones((height, width, 3), tf.uint8), (224, 224), 0.875, "bilinear")
    np.testing.assert_array_equal(out, np.ones((224, 224, 3)))


def test_the_crop_is_the_centre_of_the_resized_image() -> None:
    """Against tf.image.resize of the whole and a cut, where both can be had: whole pixels on every side."""
    image = tf.constant(RNG.integers(0, 256, (60, 90, 3), "uint8"))
    whole = tf.image.resize(image, (40, 60), "bilinear", antialias=True)[4:36, 14:46]
    out = resize_and_centre_crop(image, (32, 32), 0.8, "bilinear")
    np.testing.assert_allclose(out, tf.round(whole), atol=1)


@pytest.mark.parametrize("kind", ["array", "files", "records"])
def test_training_without_augmentation_sees_what_evaluation_sees(kind: str, image_folder: Path, tmp_path: Path) -> None:
    source = {
        "array": array_source,
        "files": lambda: open_source(str(image_folder)),
        "records": lambda: record_source(tmp_path),
    }[kind]()
    source = dataclasses.replace(source, test=source.train)
    shape = ImageFormat((16, 16), source.channels, ModelCard(crop=0.5))
    options: dict[str, Any] = {"batch_size": 1, "seed": 0, "first_step": 0, "last_step": len(source.train)}
    seen = [x.numpy().tobytes() for x, _ in training_batches(source, shape, Augmentation(), **options)]
    tested = [tf.cast(x, tf.uint8).numpy().tobytes() for x, _ in evaluation_batches(source, shape, 1)]
    assert sorted(seen) == sorted(tested)


def test_streamed_batches_do_not_depend_on_the_process(tmp_path: Path) -> None:
    source, orders = record_source(tmp_path, encoded=False), []
    for seed in (1, 2):
        tf.random.set_seed(seed)
        orders.append(numbers(batches_of(source, seed=3)))
    assert orders[0] == orders[1]


def test_a_rare_class_is_tested_too(image_folder: Path) -> None:
    for i in range(6, 60):
        (image_folder / "red" / f"{i}.jpg").write_bytes((image_folder / "red" / "0.jpg").read_bytes())
    for i in range(2, 6):
        (image_folder / "blue" / f"{i}.jpg").unlink()
    source = open_source(str(image_folder))
    assert isinstance(source.test, FileSplit)
    rare, common = np.bincount(source.test.targets)
    assert rare == 1
    assert 5 <= common <= 20  # about a fifth of 60, by the hashes of the names


def test_an_image_more_moves_no_other(image_folder: Path) -> None:
    """Neither from training to test, nor to what is held out; and another folder around them changes nothing."""
    image = (image_folder / "red" / "0.jpg").read_bytes()
    for i in range(6, 40):
        (image_folder / "red" / f"{i}.jpg").write_bytes(image)

    def names() -> list[set[str]]:
        source = open_source(str(image_folder))
        held = hold_out(source, 0.2)
        splits: list[Any] = [source.train, source.test, held.train, held.validation]
        return [{"/".join(Path(path).parts[-2:]) for path in split.paths} for split in splits]

    before, identity = names(), identity_of(open_source(str(image_folder)))
    for name in ("000.jpg", "zzz.jpg"):
        (image_folder / "red" / name).write_bytes(image)
    for was, now in zip(before, names(), strict=True):
        assert was <= now
        assert now - was <= {"red/000.jpg", "red/zzz.jpg"}
    assert identity_of(open_source(str(image_folder))) != identity
    for name in ("000.jpg", "zzz.jpg"):
        (image_folder / "red" / name).unlink()
    moved = image_folder.rename(image_folder.parent / "elsewhere")
    assert identity_of(open_source(str(moved))) == identity


def test_the_identity_of_arrays_is_of_their_pixels_and_labels() -> None:
    images, targets = np.zeros((4, 2, 2, 1), "uint8"), np.array([0, 1, 0, 1])

    def source(images: np.ndarray, targets: np.ndarray) -> Source:
        split = ArraySplit(images, targets)
        return Source("a", ("x", "y"), 1, (2, 2), split, split)

    first = identity_of(source(images, targets))
    assert first == {"training": 4, "test": 4, "digest": first["digest"]}
    assert identity_of(source(images.copy(), targets.copy())) == first
    assert identity_of(source(images + 1, targets)) != first
    assert identity_of(source(images, 1 - targets)) != first


def test_a_class_may_be_called_train(image_folder: Path) -> None:
    (image_folder / "red").rename(image_folder / "train")
    assert open_source(str(image_folder)).labels == ("blue", "train")


def test_channel_statistics_are_means_and_deviations() -> None:
    images = RNG.integers(0, 256, (20, 5, 5, 3), "uint8")
    measured = channel_statistics(ArraySplit(images, np.zeros(20, "int64")), 3)
    assert measured
    mean, std = measured
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), atol=1e-4)
    assert channel_statistics(FileSplit((), np.zeros(0)), 3) is None


def test_a_folder_is_split_by_class_and_always_the_same(image_folder: Path) -> None:
    source = open_source(str(image_folder))
    again = open_source(str(image_folder))
    assert isinstance(source.train, FileSplit)
    assert isinstance(source.test, FileSplit)
    assert source.labels == ("blue", "red")
    assert len(source.train) + len(source.test) == 12
    assert (np.bincount(source.test.targets) >= 1).all()
    assert source.train.paths == getattr(again.train, "paths", None)
    assert not set(source.train.paths) & set(source.test.paths)


def test_a_split_folder_keeps_its_splits(image_folder: Path) -> None:
    for split in ("train", "val"):
        (image_folder.parent / "splits").mkdir(exist_ok=True)
        target = image_folder.parent / "splits" / split
        target.mkdir()
        for label in ("blue", "red"):
            (target / label).mkdir()
            for path in (image_folder / label).glob("[0-3].jpg" if split == "train" else "[45].jpg"):
                (target / label / path.name).write_bytes(path.read_bytes())
    source = open_source(str(image_folder.parent / "splits"))
    assert (len(source.train), len(source.test)) == (8, 4)
    assert isinstance(source.test, FileSplit)
    assert all("/val/" in path for path in source.test.paths)
    (image_folder.parent / "splits" / "test").mkdir()
    for label in ("blue", "red"):
        (image_folder.parent / "splits" / "val" / label).joinpath("5.jpg").unlink()
        (image_folder / label).rename(image_folder.parent / "splits" / "test" / label)
    source = open_source(str(image_folder.parent / "splits"))
    assert isinstance(source.test, FileSplit)
    assert isinstance(source.validation, FileSplit)
    assert (len(source.train), len(source.validation), len(source.test)) == (8, 2, 12)
    assert all("/val/" in path for path in source.validation.paths)
    assert all("/test/" in path for path in source.test.paths)


@pytest.mark.parametrize(
    ("crop", "fits"),
    # What is cropped at random is never brought to one size beforehand, whether it would fit or not.
    [
        ("none", True),
        pytest.param("none", False, marks=pytest.mark.slow),
        ("pad", True),
        pytest.param("pad", False, marks=pytest.mark.slow),  # 3 s: read anew as for scale
        ("resized", True),
        ("scale", False),
    ],
)
def test_folder_batches(image_folder: Path, crop: Any, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fits:
        monkeypatch.setattr(pipeline, "FITS_IN_MEMORY", 0)
    source = open_source(str(image_folder))
    shape = ImageFormat((16, 16), 3, ModelCard())
    augmentation = Augmentation(crop, 2, flip=True)
    make = lambda first: training_batches(  # noqa: E731
        source, shape, augmentation, batch_size=4, seed=3, first_step=first, last_step=4
    )
    batches = list(make(0))
    assert len(batches) == 4
    for images, labels in batches:
        assert images.shape == (4, 16, 16, 3)
        red = images.numpy()[..., 0].mean((1, 2)) > images.numpy()[..., 2].mean((1, 2))
        np.testing.assert_array_equal(np.argmax(labels, -1), red)
    for (x1, _), (x2, _) in zip(batches[1:], make(1), strict=True):
        np.testing.assert_array_equal(x1, x2)


@pytest.mark.parametrize("fits", [True, False])
def test_every_image_of_a_folder_is_tested(image_folder: Path, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fits:
        monkeypatch.setattr(pipeline, "FITS_IN_MEMORY", 0)
    batches = evaluation_batches(open_source(str(image_folder)), ImageFormat((16, 16), 3, ModelCard()), 4)
    assert sum(len(images) for images, _ in batches) == 2


def test_files_and_memory_give_the_same_images(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, shape = open_source(str(image_folder)), ImageFormat((16, 16), 3, ModelCard())
    options: dict[str, Any] = {"batch_size": 5, "seed": 0, "first_step": 0, "last_step": 4}
    make = lambda: training_batches(source, shape, Augmentation(), **options)  # noqa: E731
    kept = list(make())
    assert len(kept) == 4
    monkeypatch.setattr(pipeline, "FITS_IN_MEMORY", 0)
    for (x1, y1), (x2, y2) in zip(kept, make(), strict=True):
        np.testing.assert_array_equal(x1, x2)
        np.testing.assert_array_equal(y1, y2)


def record_source(tmp_path: Path, count: int = 40, *, encoded: bool = True) -> Source:
    """Images in three TFRecord files, as a data set too large for memory is read.

    Not `encoded`, they are pixels: where the order is the point, and a decoder in each graph takes most of the time.
    """
    files = []
    for shard in range(3):
        files.append(str(tmp_path / f"{shard}.tfrecord"))
        with tf.io.TFRecordWriter(files[-1]) as writer:
            for i in range(shard, count, 3):
                pixels = np.full((8, 8, 1), i, "uint8")
                writer.write(bytes([i]) + (tf.io.encode_png(pixels).numpy() if encoded else pixels.tobytes()))

    def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        number = tf.io.decode_raw(tf.strings.substr(record, 0, 1), tf.uint8)[0]
        image = tf.strings.substr(record, 1, -1)
        image = image if encoded else tf.reshape(tf.io.decode_raw(image, tf.uint8), [8, 8, 1])
        return image, tf.cast(number, tf.int64) % 5

    split = RecordSplit(tuple(files), tuple(len(range(shard, count, 3)) for shard in range(3)), parse)
    return Source("records", tuple("abcde"), 1, (8, 8), split, split)


def test_streamed_records_are_shuffled_resumed_and_counted(tmp_path: Path) -> None:
    source = record_source(tmp_path, encoded=False)
    whole = numbers(batches_of(source))
    assert len(whole) == 15
    epochs = np.array(whole).reshape(3, 40)
    assert all(sorted(epoch) == list(range(40)) for epoch in epochs)
    assert list(epochs[0]) != list(epochs[1])
    assert numbers(batches_of(source, first_step=7)) == whole[7:]
    assert numbers(batches_of(source, seed=9)) != whole
    shape = ImageFormat((8, 8), 1, CARD)
    tested = numbers(evaluation_batches(source, shape, 16))
    assert sorted(number for batch in tested for number in batch) == list(range(40))


def test_preparing_shows_what_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download under way, and the records that are made of it, but nothing that was there before."""
    monkeypatch.setattr(tfds_source, "LOOK_SECONDS", 0.01)
    folder, log = tmp_path / "sketches" / "1.0.0", DisplayLog()

    unfinished = folder.with_name("1.0.0.incompleteX") / "a.tfrecord"

    def prepare() -> None:
        for file, wanted in ((tmp_path / "downloads" / "a.tmp.1" / "a.zip", 1000), (unfinished, 2000)):
            file.parent.mkdir(parents=True)
            file.write_bytes(bytes(1000))
            deadline = time.monotonic() + 60
            while ("to", wanted, 5000) not in log.told and time.monotonic() < deadline:
                time.sleep(0.01)

    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "of another").write_bytes(bytes(7))
    builder = SimpleNamespace(
        name="sketches",
        data_dir_root=str(tmp_path),
        data_dir=str(folder),
        info=SimpleNamespace(download_size=2000, dataset_size=3000, homepage=""),
        download_and_prepare=prepare,
    )
    with shown_by(log):
        tfds_source._download_and_prepare(builder)
    assert log.told[0] == ("begin", "preparing sketches", 5000, "B")
    assert ("to", 1000, 5000) in log.told
    assert ("to", 2000, 5000) in log.told
    assert log.told[-1] == ("end",)


def test_prepared_tfds_data_is_read_both_ways(data_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = open_source("digits", data_dir)
    monkeypatch.setattr(tfds_source, "FITS_IN_MEMORY", 0)
    streamed = open_source("digits", data_dir)
    assert isinstance(streamed.test, RecordSplit)
    shape = ImageFormat((8, 8), 1, CARD)
    for (x1, y1), (x2, y2) in zip(
        evaluation_batches(kept, shape, 64), evaluation_batches(streamed, shape, 64), strict=True
    ):
        np.testing.assert_array_equal(x1, x2)
        np.testing.assert_array_equal(y1, y2)


def test_small_images_are_enlarged_for_a_larger_net() -> None:
    shape = ImageFormat((12, 12), 1, CARD)
    batches = training_batches(array_source(), shape, Augmentation(), batch_size=8, seed=0, first_step=0, last_step=1)
    assert next(iter(batches))[0].shape == (8, 12, 12, 1)


def test_unknown_names_and_folders(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean cifar10"):
        open_source("cifar01")
    with pytest.raises(UsageError, match="there is no such folder and no TensorFlow data set"):
        open_source(str(tmp_path / "nothing"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file; give a folder"):
        open_source(str(tmp_path / "file"))


def test_no_network_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfds_source, "_reachable", lambda _: False)
    with pytest.raises(UsageError, match=r"cifar100 is not prepared in .* no network to www\.cs\.toronto\.edu"):
        open_source("cifar100", str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_data_that_is_not_images_with_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a data set of images with one class each"):
        open_source("imdb_reviews", str(tmp_path))


def test_bad_folders(image_folder: Path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(UsageError, match=message) as error:
            open_source(str(image_folder))
        assert "\n" not in str(error.value)

    (image_folder / "green").mkdir()
    refused("class .*green is empty")
    (image_folder / "green" / "notes.txt").write_text("no image")
    refused("class .*green is empty")
    (image_folder / "green" / "a.jpg").write_text("no image")
    (image_folder / "green" / "b.jpg").write_bytes((image_folder / "red" / "0.jpg").read_bytes())
    refused(r"1 image cannot be used, .*--skip-damaged: .*green/a\.jpg: no JPEG, PNG, GIF, BMP or WebP image")
    whole = (image_folder / "red" / "1.jpg").read_bytes()
    (image_folder / "green" / "c.jpg").write_bytes(whole[: len(whole) // 2])
    os.mkfifo(image_folder / "green" / "pipe.png")  # is waited for where it is opened
    image = bytearray((image_folder / "red" / "1.jpg").read_bytes())
    at = image.index(b"\xff\xc0") + 5
    image[at : at + 4] = (16_000).to_bytes(2, "big") * 2
    (image_folder / "green" / "d.jpg").write_bytes(image)
    refused(r"3 images cannot be used.*a\.jpg: .*; .*c\.jpg: .*; .*d\.jpg: an image of 16000 x 16000 pixels is larger")
    (image_folder / "green" / "a.jpg").unlink()
    (image_folder / "green" / "c.jpg").unlink()
    (image_folder / "green" / "d.jpg").unlink()
    refused("green has one image; a class needs two")


def test_a_file_whose_name_is_not_utf_8(image_folder: Path) -> None:
    (image_folder / "red" / os.fsdecode(b"\xff.jpg")).write_bytes((image_folder / "red" / "0.jpg").read_bytes())
    with pytest.raises(UsageError, match="has a name that is not UTF-8; rename it"):
        open_source(str(image_folder))


@pytest.mark.parametrize("name", [b"a\nb", b"a\xff"])
def test_a_class_whose_name_is_no_line_of_text(image_folder: Path, name: bytes) -> None:
    (image_folder / os.fsdecode(name)).mkdir()
    with pytest.raises(UsageError, match="not printable UTF-8; rename it") as error:
        open_source(str(image_folder))
    assert "\n" not in str(error.value)


def test_a_folder_with_one_class(image_folder: Path) -> None:
    with pytest.raises(UsageError, match="two classes or more; it has none"):
        open_source(str(image_folder / "red"))
    (image_folder / "train").mkdir()
    (image_folder / "blue").rename(image_folder / "train" / "blue")
    (image_folder / "red").rename(image_folder / "test")
    with pytest.raises(UsageError, match="it has one, blue"):
        open_source(str(image_folder))
    (image_folder / "test").rename(image_folder / "train" / "red")
    with pytest.raises(UsageError, match=r"no test/ or val/ beside it"):
        open_source(str(image_folder))


def test_a_test_class_that_is_not_trained_is_refused(image_folder: Path) -> None:
    (image_folder / "train").mkdir()
    for label in ("blue", "red"):
        (image_folder / label).rename(image_folder / "train" / label)
    for label in ("blue", "green"):
        (image_folder / "test" / label).mkdir(parents=True)
        (image_folder / "test" / label / "a.jpg").write_bytes((image_folder / "train/red/0.jpg").read_bytes())
    with pytest.raises(UsageError, match="test/green is not in .*train"):
        open_source(str(image_folder))


def test_the_folder_module_knows_what_it_can_decode() -> None:
    assert {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp"} == folder_module.EXTENSIONS


def test_images_are_held_out_of_every_kind_of_split(image_folder: Path, tmp_path: Path, data_dir: str) -> None:
    digits, folder, streamed = (
        open_source("digits", data_dir),
        open_source(str(image_folder)),
        record_source(tmp_path, 30),
    )
    for source, share in ((digits, 0.2), (folder, 0.25), (streamed, 0.3)):
        held = hold_out(source, share)
        again = hold_out(source, share)
        assert held.validation
        assert len(held.train) + len(held.validation) == len(source.train)
        assert held.measured is held.validation
        assert held.test is source.test
        for one, other in ((held.train, again.train), (held.validation, again.validation)):
            if isinstance(one, ArraySplit):
                assert isinstance(other, ArraySplit)
                np.testing.assert_array_equal(one.images, other.images)
            elif isinstance(one, FileSplit):
                assert isinstance(other, FileSplit)
                assert one.paths == other.paths
    held = hold_out(folder, 0.25)
    assert isinstance(held.train, FileSplit)
    assert isinstance(held.validation, FileSplit)
    assert not set(held.train.paths) & set(held.validation.paths)
    assert set(held.validation.targets) == {0, 1}  # of each class
    with pytest.raises(UsageError, match="validation 0.9 of 3 record files of records leaves none"):
        hold_out(streamed, 0.9)
