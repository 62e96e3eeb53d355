"""Training batches beside Keras's augmentation layers, one picture at a time, as a CIFAR pipeline is often written.

Command: python -m benchmarks.input. 20,000 random 32x32 pictures, crop from a padding of 4, and mirror.
"""

import resnet_keras as rk  # first: it keeps TensorFlow's start-up messages to itself

# isort: split
import keras
import numpy as np
import tensorflow as tf

from benchmarks.pairs import paired_ratio
from resnet_keras.config import Augmentation
from resnet_keras.data.pipeline import PictureFormat, training_batches
from resnet_keras.data.splits import ArraySplit, Source

COUNT, BATCH, PAIRS = 20_000, 128, 5


def drain(dataset: tf.data.Dataset) -> None:
    for _ in dataset:
        pass


def main() -> None:
    rng = np.random.default_rng(0)
    split = ArraySplit(rng.integers(0, 256, (COUNT, 32, 32, 3), "uint8"), rng.integers(0, 10, COUNT))
    source = Source("random", tuple("0123456789"), 3, (32, 32), split, split)
    shape = PictureFormat((32, 32), 3, rk.ModelCard())
    ours = training_batches(source, shape, Augmentation("pad", 4, flip=True), batch_size=BATCH, epochs=1, seed=0)
    crop, flip = keras.layers.RandomCrop(32, 32), keras.layers.RandomFlip("horizontal")

    def change(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        padded = tf.pad(tf.cast(image, tf.float32), [[4, 4], [4, 4], [0, 0]])
        return flip(crop(padded, training=True), training=True), tf.one_hot(label, 10)

    peer = tf.data.Dataset.from_tensor_slices((split.images, split.targets)).shuffle(COUNT)
    peer = peer.map(change, tf.data.AUTOTUNE).batch(BATCH, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    own, other, ratio = paired_ratio(lambda: drain(ours), lambda: drain(peer), PAIRS)
    print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}")
    print(f"ours {COUNT / own:,.0f} pictures/s, Keras layers a picture {COUNT / other:,.0f}, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
