"""Train a ResNet-20 on CIFAR-10 with `fit`, compiled by XLA, on every GPU of this machine.

    python examples/cifar10.py
    python examples/cifar10.py --epochs 1 --limit 1000    # a small run

TensorFlow Datasets downloads the images once, into --data-dir or its own folder; a folder with a prepared `cifar10`
works offline. Augmentation and batch size are those of He et al. 2015, section 4.2: pad by 4, crop, flip; 128 images.
"""

import argparse
from collections.abc import Sequence

import resnet_keras as rk  # first: it keeps TensorFlow's start-up messages to itself

# isort: split
import keras
import tensorflow as tf
import tensorflow_datasets as tfds

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of the training pixels, scaled to [0, 1]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a ResNet-20 on CIFAR-10.")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=128, help="images in a step, over all GPUs")
    parser.add_argument("--limit", type=int, help="use the first images only, of each split")
    parser.add_argument("--data-dir", help="where TensorFlow Datasets keeps prepared data")
    parser.add_argument("--output", default="cifar10.keras", help="the file of the trained model")
    flags = parser.parse_args(argv)
    if flags.limit is not None and flags.limit < flags.batch_size:
        parser.error(f"--limit {flags.limit} is less than a batch; give {flags.batch_size} or more")
    return flags


def augment(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Crop 32x32 out of the image with a border of 4 black pixels, and mirror every other one."""
    padded = tf.pad(image, [[4, 4], [4, 4], [0, 0]])
    return tf.image.random_flip_left_right(tf.image.random_crop(padded, [32, 32, 3])), label


def load(flags: argparse.Namespace) -> tuple[tf.data.Dataset, tf.data.Dataset]:
    """Batches of training and test images: uint8 `[N, 32, 32, 3]`, 0 to 255, with labels `[N]`."""
    first = f"[:{flags.limit}]" if flags.limit else ""
    splits = [f"train{first}", f"test{first}"]
    train, test = tfds.load("cifar10", split=splits, as_supervised=True, data_dir=flags.data_dir)
    train = train.cache().shuffle(50_000, seed=0).map(augment, tf.data.AUTOTUNE)
    return (
        train.batch(flags.batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE),
        test.batch(flags.batch_size).cache(),
    )


def compiled(flags: argparse.Namespace, steps: int) -> keras.Model:
    """A ResNet-20 that takes raw pixels, with SGD, decay on kernels only, and a cosine schedule after a warm-up."""
    card = rk.ModelCard(mean=MEAN, std=STD)
    model = rk.build_cifar_resnet(20, classifier_activation=None, include_preprocessing=card)
    warmup = min(400, steps // 10)
    peak = 0.1 * flags.batch_size / 128
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps - warmup, warmup_target=peak, warmup_steps=warmup)
    # Keras's decay is decoupled from the momentum of 0.9, so 1e-3 is about the paper's 1e-4.
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=1e-3)
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=True)
    return model


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Train, test and save; returns the loss and accuracy on the test images."""
    flags = parse(argv)
    keras.utils.set_random_seed(0)
    train, test = load(flags)
    several = len(tf.config.list_logical_devices("GPU")) > 1
    strategy = tf.distribute.MirroredStrategy() if several else tf.distribute.get_strategy()
    with strategy.scope():
        model = compiled(flags, len(train) * flags.epochs)
    print(f"{strategy.num_replicas_in_sync} replica(s), {len(train)} steps an epoch")
    model.fit(train, epochs=flags.epochs, validation_data=test, verbose=2, shuffle=False)  # the data set shuffles
    result = model.evaluate(test, verbose=0, return_dict=True)
    print(f"test accuracy {result['accuracy']:.4f}, model in {flags.output}")
    model.save(flags.output)
    return result


if __name__ == "__main__":
    main()
