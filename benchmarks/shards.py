"""ImageNet's size without ImageNet: a prepared data set of synthetic JPEG images for `--data imagenet2012`.

Command: python -m benchmarks.shards FOLDER [--images 200000]. Then `resnet-keras train ... --data imagenet2012
--data-dir FOLDER` streams it. Records have about the size that ImageNet's have, 1,251 a file. The images are smooth
noise of 500x375 pixels, a thousand different ones, and each record has a comment with its number in its JPEG header, so
that no two are equal. Labels are the number modulo 1,000.
"""

import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
import tyro

from resnet_keras.benchmarks.pipeline import SIDES
from resnet_keras.cli.bars import bars
from resnet_keras.progress import progress

NAME, VERSION = "imagenet2012", "5.1.0"
CLASSES, DIFFERENT, IN_A_FILE, TEST_IMAGES = 1000, 1000, 1251, 1000
QUALITY = 95
"""Of JPEG, at which an image takes 115 kB. ImageNet's 1,281,167 training images take 138 GB."""


@dataclass
class Arguments:
    """Write a data set of synthetic JPEG images."""

    folder: Annotated[Path, tyro.conf.Positional]
    images: int = 200_000


def write(folder: Path, images: int) -> Path:
    """The data set's folder, with `images` to train on and 1,000 to test."""
    target = folder / NAME / VERSION
    target.mkdir(parents=True)
    different = _encoded(min(DIFFERENT, images))
    splits = []
    with progress("writing records", images + TEST_IMAGES, "images") as task, ThreadPoolExecutor(2) as pool:
        for split, count in (("train", images), ("validation", TEST_IMAGES)):
            numbers = [range(first, min(first + IN_A_FILE, count)) for first in range(0, count, IN_A_FILE)]
            names = [f"{NAME}-{split}.tfrecord-{i:05d}-of-{len(numbers):05d}" for i in range(len(numbers))]
            sizes = []
            for size in pool.map(lambda name, part: _file(target / name, different, part), names, numbers):
                task.add(len(numbers[len(sizes)]))
                sizes.append(size)
            template = tfds.core.ShardedFileTemplate(target, "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}", NAME)
            splits.append(tfds.core.SplitInfo(split, list(map(len, numbers)), sum(sizes), template))
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(num_classes=CLASSES),
            "file_name": tfds.features.Text(),
        }
    )
    tfds.folder_dataset.write_metadata(
        data_dir=target, features=features, split_infos=splits, supervised_keys=("image", "label")
    )
    return target


def _encoded(count: int) -> list[bytes]:
    """JPEG images: smooth ones with noise."""
    rng = np.random.default_rng(0)
    made = []
    with progress("making images", count, "images") as task:
        for _ in range(count):
            image = tf.image.resize(rng.uniform(0, 255, (24, 18, 3)), SIDES[::-1], "bicubic")
            noise = tf.image.resize(rng.normal(0, 20, (SIDES[1] // 2, SIDES[0] // 2, 3)), SIDES[::-1], "bicubic")
            pixels = tf.saturate_cast(image + noise, tf.uint8)
            made.append(tf.io.encode_jpeg(pixels, quality=QUALITY).numpy())
            task.add(1)
    return made


def _file(path: Path, different: list[bytes], numbers: range) -> int:
    """Write the records of some numbers; returns their bytes."""
    size = 0
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number in numbers:
            jpeg = different[number % len(different)]
            comment = f"image {number}".encode()
            # A JPEG file's first two bytes begin the image; a segment of comment may follow.
            image = jpeg[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + jpeg[2:]
            feature = {
                "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[number % CLASSES])),
                "file_name": tf.train.Feature(bytes_list=tf.train.BytesList(value=[f"{number}.JPEG".encode()])),
            }
            record = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
            writer.write(record)
            size += len(record)
    return size


def main(arguments: Arguments) -> None:
    with bars(quiet=False):
        made = write(arguments.folder, arguments.images)
    print(made)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
