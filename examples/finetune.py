"""Fine-tune a pretrained network on a folder of images, `folder/class/file.jpg`: the head first, then all of it.

    python examples/finetune.py my_images                        # a ResNet-20 of CIFAR-10, 32x32; works offline
    python examples/finetune.py my_images --weights imagenet     # a ResNet-50 of ImageNet, 224x224, from the Hub

A fifth of the images is for validation. Writes a `.keras` file and a SavedModel for TensorFlow Serving, with the
preprocessing and the class names inside.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import resnet_keras as rk  # first: it keeps TensorFlow's start-up messages to itself

# isort: split
import keras
import tensorflow as tf


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fine-tune a pretrained network on a folder of images.")
    parser.add_argument("folder", help="with a subfolder of images for each class")
    parser.add_argument("--weights", choices=["cifar10-jpeg", "imagenet"], default="cifar10-jpeg")
    parser.add_argument("--epochs", type=int, default=10, help="of each of the two phases")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--output", default="finetuned", help="folder for the model and its export")
    return parser.parse_args(argv)


def build(weights: str, side: int, classes: int) -> tuple[keras.Model, keras.Model]:
    """The pretrained backbone, which takes raw pixels, and the classifier on top of it, which gives logits."""
    name = "resnet50" if weights == "imagenet" else "cifar_resnet20"
    options: dict[str, Any] = {"pooling": "avg", "include_preprocessing": True, "input_shape": (side, side, 3)}
    backbone = rk.create_model(name, include_top=False, weights=weights, **options)
    logits = keras.layers.Dense(classes, name="logits")(backbone.output)
    return backbone, rk.Model(backbone.input, logits, name="finetuned")


def load(folder: str, side: int, batch_size: int) -> tuple[tf.data.Dataset, tf.data.Dataset, list[str]]:
    """Training batches, mirrored at random, validation batches, and the names of the classes."""
    train, validation = keras.utils.image_dataset_from_directory(
        folder, validation_split=0.2, subset="both", seed=0, image_size=(side, side), batch_size=batch_size
    )
    names = train.class_names
    train = train.map(lambda images, labels: (tf.image.random_flip_left_right(images), labels), tf.data.AUTOTUNE)
    return train.prefetch(tf.data.AUTOTUNE), validation.cache(), names


def fit(model: keras.Model, rate: float, train: Any, validation: Any, epochs: int) -> dict[str, list[float]]:
    """Compile, which makes what is trainable count, and train."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"], jit_compile=True)
    # The data set shuffles.
    return model.fit(train, validation_data=validation, epochs=epochs, verbose=2, shuffle=False).history


def main(argv: Sequence[str] | None = None) -> tuple[keras.Model, Path]:
    """Train both phases, save and export; returns the model and the folder of the SavedModel."""
    flags = parse(argv)
    keras.utils.set_random_seed(0)
    side = 224 if flags.weights == "imagenet" else 32
    train, validation, names = load(flags.folder, side, flags.batch_size)
    backbone, model = build(flags.weights, side, len(names))

    rk.freeze(backbone)  # weights and batch statistics
    fit(model, 1e-3, train, validation, flags.epochs)
    rk.unfreeze(backbone)  # but for the norms, whose statistics are better than those of a few images
    history = fit(model, 1e-4, train, validation, flags.epochs)

    print(f"validation accuracy {history['val_accuracy'][-1]:.4f} with {len(names)} classes: {', '.join(names)}")
    Path(flags.output).mkdir(parents=True, exist_ok=True)
    model.save(Path(flags.output) / "model.keras")
    exported = rk.export_servable(model, Path(flags.output) / "servable", labels=names)
    print(f"model in {flags.output}/model.keras, SavedModel in {exported}")
    return model, exported


if __name__ == "__main__":
    main()
