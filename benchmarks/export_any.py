"""Servables of other people's classifiers beside `model.export()` of the same: networks of keras.applications.

Command: python -m benchmarks.export_any [--networks NAME ...] [--batches 1 8] [--dtypes float32 bfloat16] [--pairs N].
"sequential" is a small net of our own making, with a head of any name. Each servable and Keras's own export run in a
process of their own, in turns; all of a network have the same random weights and read the same raw pixels, which the
network itself normalises. Prints Markdown: images/s, the medians of the paired ratios with their quartiles, and how far
the answers are apart.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

# isort: split
import keras
import numpy as np
import tensorflow as tf
import tyro

from resnet_keras.benchmarks.command import compare_variants
from resnet_keras.benchmarks.rounds import Effort
from resnet_keras.benchmarks.settings import InferSettings
from resnet_keras.benchmarks.tables import markdown

NETWORKS = ("ResNet50", "MobileNetV2", "EfficientNetB0", "DenseNet121", "sequential")
PREPROCESSING = {
    "ResNet50": keras.applications.resnet.preprocess_input,
    "MobileNetV2": keras.applications.mobilenet_v2.preprocess_input,
    "DenseNet121": keras.applications.densenet.preprocess_input,
}
"""Of a network that does not normalise its pixels itself."""


@dataclass
class Arguments:
    """Time exports of any classifier."""

    networks: tuple[str, ...] = NETWORKS
    batches: tuple[int, ...] = (1, 8)
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    pairs: int = 7
    seconds: float = 1.0
    """Of each timing."""
    size: int = 224


def main(arguments: Arguments) -> None:
    print(f"{arguments.size}x{arguments.size}, TensorFlow {tf.__version__}, Keras {keras.__version__}", flush=True)
    for network in arguments.networks:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{network}.keras"
            made(network, arguments.size).save(path)
            settings = InferSettings(str(path), arguments.batches, dtypes=arguments.dtypes)
            variants = [one for one in settings.variants() if one.name != "Keras call"]
            effort = Effort(arguments.pairs, arguments.seconds)
            print(markdown(compare_variants("infer", variants, effort, limit=False)), flush=True)


def made(network: str, size: int) -> keras.Model:
    """A network from raw pixels to 1000 probabilities, of `sequential` to 10; no weight is trivial."""
    shape = (size, size, 3)
    if network == "sequential":
        model = sequential(shape)
    else:
        pixels = keras.Input(shape)
        whole = getattr(keras.applications, network)(weights=None, input_shape=shape)
        model = keras.Model(pixels, whole(PREPROCESSING.get(network, lambda x: x)(pixels)))
    rng = np.random.default_rng(0)
    for variable in model.weights:
        shape = variable.shape
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, shape))
        elif len(shape) > 1:
            fan_in = np.prod(shape[:2] if "depthwise" in variable.path else shape[:-1])
            variable.assign(rng.normal(0, np.sqrt(1.5 / fan_in), shape))
        elif variable.name in ("beta", "moving_mean", "bias"):
            variable.assign(rng.normal(0, 0.1, shape))
    return model


def sequential(shape: tuple[int, int, int]) -> keras.Model:
    """As a tutorial writes it: convolutions with batch norm and ReLU, and dense layers of some name."""
    layers: list[keras.layers.Layer] = [keras.layers.Rescaling(1 / 255)]
    for width in (32, 64, 128, 256):
        layers += [keras.layers.Conv2D(width, 3, padding="same", use_bias=False), keras.layers.BatchNormalization()]
        layers += [keras.layers.ReLU(), keras.layers.MaxPooling2D()]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(128, "relu"), keras.layers.Dropout(0.3)]
    return keras.Sequential([keras.Input(shape), *layers, keras.layers.Dense(10, "softmax", name="species")])


if __name__ == "__main__":
    main(tyro.cli(Arguments))
