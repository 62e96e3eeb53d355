"""Training batches beside Keras's augmentation layers, as a CIFAR pipeline is often written with them.

Command: python -m benchmarks.input. Random 32x32 images. Keras's layers take one image at a time where each image
is to draw its own (RandAugment has no TrivialAugment to stand beside; ours stands beside its RandAugment), and a batch
where they mix.
"""

import resnet_keras as rk  # first: it keeps TensorFlow's start-up messages to itself

# isort: split
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.benchmarks.pairs import paired_ratio
from resnet_keras.config.train import Augmentation
from resnet_keras.data.format import ImageFormat
from resnet_keras.data.pipeline import training_batches
from resnet_keras.data.splits import ArraySplit, Source

COUNT, BATCH, PAIRS = 20_000, 128, 5
Changes = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def source() -> Source:
    rng = np.random.default_rng(0)
    split = ArraySplit(rng.integers(0, 256, (COUNT, 32, 32, 3), "uint8"), rng.integers(0, 10, COUNT))
    return Source("random", tuple("0123456789"), 3, (32, 32), split, split)


def drain(dataset: tf.data.Dataset) -> None:
    for _ in dataset:
        pass


def peer_batches(data: ArraySplit, steps: int, policy: bool, mixes: bool) -> tf.data.Dataset:
    """Keras's layers for the same work."""
    crop, flip = keras.layers.RandomCrop(32, 32), keras.layers.RandomFlip("horizontal")
    rand = keras.layers.RandAugment(value_range=(0, 255), num_ops=2, factor=0.9)
    mixers = [keras.layers.MixUp(0.2), keras.layers.CutMix(1.0)]

    def one(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        padded = tf.pad(tf.cast(image, tf.float32), [[4, 4], [4, 4], [0, 0]])
        image = flip(crop(padded, training=True), training=True)
        return rand(image, training=True) if policy else image, tf.one_hot(label, 10)

    def mixed(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        def by(layer: keras.Layer) -> Callable[[], tuple[tf.Tensor, tf.Tensor]]:
            def call() -> tuple[tf.Tensor, tf.Tensor]:
                out = layer({"images": images, "labels": labels}, training=True)
                return out["images"], out["labels"]

            return call

        return tf.cond(tf.random.uniform([]) < 0.5, by(mixers[0]), by(mixers[1]))

    examples = tf.data.Dataset.from_tensor_slices((data.images, data.targets)).shuffle(COUNT)
    batches = examples.map(one, tf.data.AUTOTUNE).batch(BATCH, drop_remainder=True).take(steps)
    if mixes:
        batches = batches.map(mixed, tf.data.AUTOTUNE)
    return batches.prefetch(tf.data.AUTOTUNE)


def main() -> None:
    images, shape = source(), ImageFormat((32, 32), 3, rk.ModelCard())
    data = images.train
    assert isinstance(data, ArraySplit)
    windows = {"crop": "pad", "flip": True}
    rows = [
        ("pad and flip", Augmentation(**windows), COUNT // BATCH),
        ("and mixup or cutmix", Augmentation(**windows, mixup=0.2, cutmix=1.0), COUNT // BATCH),
        ("and randaugment", Augmentation(**windows, policy="randaugment"), 20),
        ("and trivialaugment", Augmentation(**windows, policy="trivialaugment"), 20),
    ]
    print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}; images/s")
    for name, augmentation, steps in rows:
        ours = training_batches(images, shape, augmentation, batch_size=BATCH, seed=0, first_step=0, last_step=steps)
        peer = peer_batches(data, steps, augmentation.policy != "none", augmentation.mixes)
        own, other, ratio = paired_ratio(lambda d=ours: drain(d), lambda d=peer: drain(d), PAIRS)
        count = steps * BATCH
        print(f"{name}: ours {count / own:,.0f}, Keras's layers {count / other:,.0f}, ratio {ratio}", flush=True)


if __name__ == "__main__":
    main()
