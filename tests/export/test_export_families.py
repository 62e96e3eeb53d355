"""Networks as TensorFlow's operations: every dtype of every family against the network itself."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import randomise

import resnet_keras as rk
from resnet_keras.data.format import from_pixels
from resnet_keras.export import quantized
from resnet_keras.export.floating import emit_float
from resnet_keras.export.lowering import lower
from resnet_keras.export.operations import Call, Convolution, Operation, Pixels, in_order
from resnet_keras.export.quantized import Int8Graph, quantized_kernel

RNG = np.random.default_rng(0)
needs_int8 = pytest.mark.skipif(
    not quantized.available(), reason="this TensorFlow has no quantised convolution (oneDNN on x86 has)"
)
LEVELS = quantized.kernel_levels() or quantized.SIGNED_LEVELS
FAMILIES: dict[str, dict[str, Any]] = {
    "resnet18": {},
    "resnet50": {"size": 65},
    "resnet50_v1": {},
    "resnet50_v2": {},
    "resnet50_v2_slim": {},
    "resnet50d": {"size": 65},
    "resnetrs50": {"se_ratio": 0.0},
    "seresnet50": {},
    "resnext50_32x4d": {},
    "wide_resnet50_2": {},
    "plain18": {},
    "cifar_resnet20": {},
    "cifar_resnet20 gates": {"se_ratio": 0.25},
    "cifar_resnet8_4": {},
    "cifar_preact_resnet110": {"depth": 20},
    "cifar_wrn28_10": {"depth": 8, "widths": (16, 32, 64)},
    "vgg11": {},
    "vgg11_bn": {},
    "densenet121": {},
    "cifar_densenet_bc_100_12": {"depth": 22},
    "resnet18 group": {"norm": "group", "weight_standardization": True},
    "resnet18 blurred": {"antialias": True},
    "resnet18 dilated": {"output_stride": 8, "shortcut": "C"},
    "resnet18 silu": {"activation": "silu"},
    "resnet18 group1": {"norm": "group1"},
    "resnet50_v2 blurred": {"antialias": True},
    "resnet18 BGR": {"card": rk.ModelCard(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1), channels="BGR")},
    "cifar_preact_resnet110 deep": {"depth": 56},
    "convnext_tiny": {"blocks": (1, 2), "widths": (16, 32)},
    "convnext_tiny post": {"blocks": (2,), "widths": (16,), "norm_placement": "post", "layer_scale": 0.0},
    "vit_ti16": {"blocks": 2, "width": 32, "heads": 2},
    "vit_ti16 mean": {"blocks": 2, "width": 32, "heads": 4, "pool": "mean", "layer_scale": 0.1},
    "vit_ti16 post": {"blocks": 1, "width": 32, "heads": 1, "norm_placement": "post"},
}
QUICK = (
    "cifar_resnet20",
    "cifar_resnet20 gates",
    "cifar_preact_resnet110",
    "cifar_densenet_bc_100_12",
    "resnet18 silu",
    "resnet18 BGR",
    "convnext_tiny",
    "vit_ti16",
)
"""Most kinds of operation. Plain, grouped, dilated, blurred and group-normalised networks are among the slow others."""
CALLED = ("group", "blurred", "vgg11")
"""Families with layers that are called as they are."""
IN_INT8 = {
    "resnet18": 1.0,
    "resnet50": 1.0,
    "resnet50d": 1.0,
    "cifar_resnet20": 1.0,
    "plain18": 1.0,
    "cifar_preact_resnet110": 0.9,
    "densenet121": 0.9,
    "vgg11_bn": 0.9,
    "resnext50_32x4d": 0.7,
    "resnet18 silu": 0.0,
}
"""The share of multiply-adds, at least, that is to be in int8; grouped convolutions and dense layers are not."""


def network_of(family: str, classes: int = 10) -> tuple[keras.Model, np.ndarray]:
    """A small network of a family, weights random, and images for it."""
    options = dict(FAMILIES[family])
    size, card = options.pop("size", 33), options.pop("card", True)
    name = family.split()[0]
    if name.startswith("vgg"):
        size, options["hidden"] = 32, 64
    elif name == "densenet121":
        options["layers"] = (2, 3, 2, 2)
    elif name.startswith(("convnext", "vit")):
        size, options["patch_size"] = 32, 4
        options |= {"image_size": 32} if name.startswith("vit") else {}
    elif not name.startswith("cifar") and name != "resnet50":
        options["blocks"] = (1, 2, 1, 1)
    if "depth" in options:
        depth, kind = options.pop("depth"), rk.build_densenet if "densenet" in name else rk.build_cifar_resnet
        own: dict[str, Any] = {"variant": "v2", "block": "basic", "shortcut": "B"} if "densenet" not in name else {}
        own = own or {"stem": "cifar"}
        shape = (size, size, 3)
        model = kind(depth, input_shape=shape, classes=classes, include_preprocessing=card, **own, **options)
    else:
        shape = (size, size, 3)
        model = rk.create_model(name, input_shape=shape, classes=classes, include_preprocessing=card, **options)
    randomise(model)
    for variable in model.variables:
        if "/se/" in variable.path:  # steep random gates double a rounding error from block to block
            variable.assign(variable * 0.1)
    return model, RNG.integers(0, 256, (4, *shape), "uint8")


def features_of(model: keras.Model, images: np.ndarray) -> np.ndarray:
    inside = keras.Model(model.input, model.get_layer("logits").input)
    return np.asarray(from_pixels(inside)(images.astype("float32"), training=False))


def run(network: Any, images: np.ndarray) -> np.ndarray:
    """What a function of pixels writes into a graph, as it answers."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        pixels = tf.compat.v1.placeholder(tf.uint8, [None, *images.shape[1:]])
        return session.run(network(pixels), {pixels: images})


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    return float((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y))


def maps_of(ends: tuple[Operation, ...], images: np.ndarray) -> dict[Operation, float]:
    """The largest absolute value of each map on these images."""
    operations = list(in_order(*ends))

    def network(pixels: tf.Tensor) -> list[tf.Tensor]:
        written = emit_float(ends, pixels, tf.float32)
        return [written[operation] for operation in operations]

    values = run(network, images)
    return {operation: float(np.abs(value).max()) for operation, value in zip(operations, values, strict=True)}


@pytest.mark.parametrize("family", [f if f in QUICK else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES])
def test_every_family_in_every_dtype(family: str) -> None:
    """float32 to 1e-5 of the largest feature, bfloat16 by cosine, int8 by cosine and by its share of the work.

    Weights are random, so that no wrong layer hides behind a one or a zero; thus int8 has its ranges from the very
    images it is asked about.
    """
    model, images = network_of(family)
    ends = lower(model)
    expected = features_of(model, images)
    got = {
        dtype.name: run(lambda pixels, dtype=dtype: emit_float(ends, pixels, dtype)[ends[1]], images)
        for dtype in (tf.float32, tf.bfloat16)
    }
    assert np.abs(got["float32"] - expected).max() <= 1e-5 * np.abs(expected).max()
    assert cosine(got["bfloat16"].astype("float64"), expected) > 0.999
    called = any(isinstance(operation, Call) for operation in in_order(*ends))
    assert called == any(word in family for word in CALLED)
    if not quantized.available():
        return
    graphs = []

    def in_int8(pixels: tf.Tensor) -> tf.Tensor:
        graphs.append(Int8Graph(maps_of(ends, images), pixels, LEVELS))
        return graphs[0].emit(ends)[1]

    assert cosine(run(in_int8, images).astype("float64"), expected) > 0.99
    share = graphs[0].int8_macs / graphs[0].macs
    assert IN_INT8.get(family, 0.0) - 0.01 <= share <= 1


@needs_int8
@pytest.mark.parametrize("largest", [1.0, 50.0])
def test_a_signed_shortcut_in_the_quantised_sum(largest: float) -> None:
    """A summand of both signs, large beside the branch: taken as it is, oneDNN would cut it off at half its range."""
    pixels = Pixels(channels=16)
    common: dict[str, Any] = {"channels": 24, "inputs": (pixels,)}
    kernels = RNG.normal(0, [0.01, 0.01 * largest], (3, 3, 16, 24, 2))
    padding = ((1, 1), (1, 1))
    shortcut = Convolution(kernel=kernels[..., 1], bias=RNG.normal(size=24), padding=padding, **common)
    common["inputs"] = (pixels, shortcut)
    block = Convolution(kernel=kernels[..., 0], bias=RNG.normal(size=24), padding=padding, activation="relu", **common)
    images = RNG.integers(0, 256, (2, 9, 9, 16), "uint8")
    ranges = maps_of((block,), images)
    wanted = run(lambda pixels: emit_float([block], pixels, tf.float32)[block], images)
    got = run(lambda pixels: Int8Graph(ranges, pixels, LEVELS).emit([block])[0], images)
    side = run(lambda pixels: emit_float([shortcut], pixels, tf.float32)[shortcut], images)
    assert side.max() > ranges[shortcut] / 2
    assert side.min() < 0
    assert np.sqrt(np.mean((got - wanted) ** 2)) < 0.02 * np.sqrt(np.mean(wanted**2))
    assert np.abs(got - wanted).max() < 0.04 * wanted.max()


@pytest.mark.parametrize("levels", [127, 64])
def test_kernels_are_quantised_by_output_channel(levels: int) -> None:
    kernel = RNG.normal(size=(3, 3, 4, 5)) * [1e-3, 1, 10, 0, 100]
    values, limits = quantized_kernel(kernel, levels)
    assert values.dtype == np.int8
    assert values.min() >= -levels
    for channel in (0, 1, 2, 4):
        assert np.abs(values[..., channel]).max() == levels
        error = np.abs(values[..., channel] * limits[channel] / 127 - kernel[..., channel]).max()
        assert error <= 0.501 * limits[channel] / 127
    assert not values[..., 3].any()
