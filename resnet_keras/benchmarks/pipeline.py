"""Training batches as a program: what `resnet-keras train` reads, augments and mixes, without the training."""

import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from resnet_keras.benchmarks.settings import NO_AUGMENTATION, RANDOM
from resnet_keras.benchmarks.variants import Program
from resnet_keras.config.augmentation import Augmentation
from resnet_keras.config.recipes import recipe as recipe_named
from resnet_keras.config.train import TrainConfig
from resnet_keras.data.format import ImageFormat
from resnet_keras.data.pipeline import training_batches
from resnet_keras.data.sources import open_source
from resnet_keras.data.splits import FileSplit, Source
from resnet_keras.errors import UsageError
from resnet_keras.models.card import ModelCard

SIDES = (500, 375)
"""Width and height of the random JPEG files, those that most of ImageNet's have."""
FEWEST_FILES = 128
STEPS = 1_000_000
"""More than are taken in a turn."""


def batches(data: str, recipe: str, batch_size: int, image_size: int | None, data_dir: str | None) -> Program:
    """A batch after the other, by a recipe's augmentation and label smoothing, as fast as they come.

    A call reads anew: what is read ahead between two turns would count for nothing, and would slow others down.
    """
    config = TrainConfig() if recipe == NO_AUGMENTATION else recipe_named(recipe)
    source = random_files(batch_size) if data == RANDOM else open_source(data, data_dir)
    size = (image_size, image_size) if image_size else source.image_size
    if size is None:
        raise UsageError(f"the images of {data} have no common size; give --image-size")
    card = ModelCard(crop=config.eval_crop, interpolation=config.interpolation)
    if not card.fits(source.channels):
        card = ModelCard(mean=(0.5,), std=(0.25,), crop=config.eval_crop, interpolation=config.interpolation)
    made = training_batches(
        source,
        ImageFormat(size, source.channels, card),
        Augmentation() if recipe == NO_AUGMENTATION else config.augmentation,
        batch_size=batch_size,
        seed=0,
        first_step=0,
        last_step=STEPS,
        label_smoothing=config.label_smoothing,
    )

    def read(seconds: float) -> dict[str, Any]:
        iterator, images = iter(made), 0
        next(iterator)  # it opens files, and starts threads
        started = time.perf_counter()
        while (taken := time.perf_counter() - started) < seconds or not images:
            images += int(next(iterator)[0].shape[0])
        return {"images": images, "seconds": taken}

    spec: Any = made.element_spec
    return Program(read, facts={"bytes": math.prod((*size, source.channels)) * spec[0].dtype.size})


def random_files(batch_size: int) -> Source:
    """JPEG files of smooth images, for noise is no JPEG that anyone has."""
    folder, rng = Path(tempfile.mkdtemp()), np.random.default_rng(0)
    paths = []
    for number in range(max(batch_size, FEWEST_FILES)):
        image = tf.image.resize(rng.uniform(0, 255, (24, 18, 3)), SIDES[::-1], "bicubic")
        path = folder / f"{number}.jpg"
        path.write_bytes(tf.io.encode_jpeg(tf.saturate_cast(image, tf.uint8), quality=90).numpy())
        paths.append(str(path))
    split = FileSplit(tuple(paths), np.arange(len(paths)) % 2)
    return Source(RANDOM, ("0", "1"), 3, None, split, split)
