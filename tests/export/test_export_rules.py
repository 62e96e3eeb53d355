"""The rules by which layers of Keras become operations: each computes what its layer does, and nothing is called."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from small import randomise
from tensorflow.python.util._pywrap_util_port import IsMklEnabled
from test_export_layer_norm import kinds, run

from resnet_keras.export import quantized
from resnet_keras.export.floating import emitted
from resnet_keras.export.lowering import lower
from resnet_keras.export.operations import Convolution, Scale, in_order

RNG = np.random.default_rng(0)
L = keras.layers
SHAPE = (9, 8, 6)
IMAGES = RNG.integers(0, 256, (2, *SHAPE), "uint8")
Maker = Callable[[Any], Any]
CONVOLUTIONS = {
    "plain": lambda **given: L.Conv2D(5, **given),
    "grouped": lambda **given: L.Conv2D(6, groups=3, **given),
    "depthwise": lambda multiplier=1, **given: L.DepthwiseConv2D(depth_multiplier=multiplier, **given),
    "separable": lambda multiplier=1, **given: L.SeparableConv2D(5, depth_multiplier=multiplier, **given),
}


def classifier(make: Maker, shape: tuple[int, ...] = SHAPE) -> keras.Model:
    """Layers between raw pixels and a head, with random weights."""
    pixels = keras.Input(shape)
    x = make(L.Rescaling(1 / 64, -1.5)(pixels))
    x = L.GlobalAveragePooling2D()(x) if len(x.shape) == 4 else x
    model = keras.Model(pixels, L.Dense(3, "sigmoid")(x))
    randomise(model)
    return model


def check(model: keras.Model, images: np.ndarray = IMAGES) -> Counter[str]:
    """Compare a lowered model with the model; returns how many operations of each kind it has."""
    ends = lower(model)
    (got, features), _ = run(ends, images)
    want = np.asarray(model(images.astype("float32"), training=False))
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert np.isfinite(features).all()
    return kinds(ends)


@st.composite
def convolutions(draw: st.DrawFn) -> dict[str, Any]:
    stride = draw(st.integers(1, 3))
    return {
        "kernel_size": draw(st.tuples(st.integers(1, 4), st.integers(1, 4))),
        "strides": stride,
        "dilation_rate": draw(st.integers(1, 2)) if stride == 1 else 1,
        "padding": draw(st.sampled_from(["same", "valid"])),
        "use_bias": draw(st.booleans()),
        "activation": draw(st.sampled_from([None, "relu", "relu6", "silu", "hard_silu", "hard_sigmoid", "tanh"])),
    }


SIDES = st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2)


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(sorted(CONVOLUTIONS)),
    options=convolutions(),
    multiplier=st.integers(1, 3),
    around=st.none() | SIDES,
    norm=st.booleans(),
    size=st.tuples(st.integers(7, 10), st.integers(7, 10)),
)
def test_a_convolution_of_pixels_and_of_a_map(
    kind: str, options: dict[str, Any], multiplier: int, around: Any, norm: bool, size: tuple[int, int]
) -> None:
    """The first has the normalisation of pixels in its kernel, and a border that stands for zero in front of it."""
    if not quantized.available():
        pytest.skip("only oneDNN has convolutions in groups")
    more = {"multiplier": multiplier} if kind in ("depthwise", "separable") else {}

    def branch(x: Any) -> Any:
        x = x if around is None else L.ZeroPadding2D(around)(x)
        x = CONVOLUTIONS[kind](**options, **more)(x)
        return L.GlobalAveragePooling2D()(L.BatchNormalization()(x) if norm else x)

    def make(x: Any) -> Any:
        return L.Concatenate()([branch(x), branch(L.Conv2D(6, 1)(x))])

    images = RNG.integers(0, 256, (2, *size, 6), "uint8")
    assert not check(classifier(make, (*size, 6)), images)["Call"]


def gated(pool: keras.layers.Layer, *gate: keras.layers.Layer) -> Maker:
    """A squeeze and excitation of some layers."""

    def make(x: Any) -> Any:
        y = pool(x := L.Conv2D(4, 3, activation="silu")(x))
        for layer in gate:
            y = layer(y)
        return L.Multiply()([x, y])

    return make


def normalization(invert: bool = False) -> keras.layers.Layer:
    return L.Normalization(mean=RNG.normal(size=6), variance=RNG.uniform(0.5, 2, 6), invert=invert)


def bottleneck(x: Any) -> Any:
    """As MobileNetV2's: a sum that no activation follows, of a convolution that another reads as well."""
    x = L.BatchNormalization()(L.Conv2D(4, 1)(x))
    y = L.ReLU(6.0)(L.DepthwiseConv2D(3, padding="same", use_bias=False)(x))
    return L.Add()([x, L.BatchNormalization()(L.Conv2D(4, 1)(y))])


def residual(x: Any) -> Any:
    x = L.Activation("relu")(L.Conv2D(4, 1)(x))
    return L.ReLU()(L.Add()([L.Conv2D(4, 1)(x), L.BatchNormalization()(L.Conv2D(4, 3, padding="same")(x))]))


def dense_block(x: Any) -> Any:
    for _ in range(2):
        y = L.Conv2D(3, 3, padding="same")(L.ReLU()(L.BatchNormalization()(x)))
        x = L.Concatenate()([x, y])
    return x


def caffe(x: Any) -> Any:
    return L.Conv2D(4, 3, padding="same")(keras.ops.stack([x[..., i] for i in reversed(range(6))], axis=-1) - 1.5)


def reversed_twice(x: Any) -> Any:
    x = x[..., ::-1] * np.arange(1.0, 7) + 1
    return L.Conv2D(4, 3, padding="same")(x[..., ::-1] / np.arange(2.0, 8))


def hard_swish(x: Any) -> Any:
    """As MobileNetV3 writes it."""
    x = L.Conv2D(4, 3)(x)
    return L.Multiply()([x, L.ReLU(6.0)(x + 3.0) * (1.0 / 6.0)])


def through(*layers: keras.layers.Layer) -> Maker:
    def make(x: Any) -> Any:
        for layer in layers:
            x = layer(x)
        return x

    return make


POOL = L.GlobalAveragePooling2D
RULES: dict[str, tuple[Callable[[], Maker], dict[str, int]]] = {
    "relu6": (lambda: through(L.Conv2D(4, 3), L.ReLU(6.0)), {"Convolution": 1}),
    "normalization": (lambda: through(normalization(), L.Conv2D(4, 3, padding="same")), {"Convolution": 1}),
    "inverted": (lambda: through(normalization(True), L.Conv2D(4, 3, 2, padding="same")), {"Convolution": 1}),
    "norm behind norm": (lambda: through(L.BatchNormalization(), L.BatchNormalization(), L.ReLU()), {"Scale": 1}),
    "dense norm": (lambda: through(POOL(), L.Dense(4), L.BatchNormalization(), L.ReLU()), {"Dense": 2}),
    "gate of dense layers": (
        lambda: gated(POOL(), L.Dense(2, "relu"), L.Dense(4, "sigmoid"), L.Reshape((1, 1, 4))),
        {"Multiply": 1, "Reshape": 1, "Dense": 3},
    ),
    "gate of convolutions": (
        lambda: gated(
            POOL(), L.Reshape((1, 1, 4)), L.Conv2D(2, 1, activation="silu"), L.Conv2D(4, 1, activation="sigmoid")
        ),
        {"Multiply": 1, "GlobalPool": 2, "Convolution": 3},
    ),
    "gate of the largest": (lambda: gated(L.GlobalMaxPooling2D(keepdims=True), L.Conv2D(4, 1)), {"Multiply": 1}),
    "bottleneck": (lambda: bottleneck, {"Convolution": 3, "Add": 1}),
    "residual": (lambda: residual, {"Convolution": 3, "Add": 0}),
    "dense block": (lambda: dense_block, {"Concatenate": 2, "Scale": 3}),
    "BGR": (lambda: caffe, {"Convolution": 1, "Scale": 0}),
    "reversed twice": (lambda: reversed_twice, {"Convolution": 1, "Scale": 0}),
    "hard swish": (lambda: hard_swish, {"Multiply": 1, "Held": 1, "Convolution": 1}),
    "three": (lambda: lambda x: L.Add()([x, L.Conv2D(6, 1)(x), L.Conv2D(6, 1)(x)]), {"Add": 2}),
    "flat": (lambda: through(L.Conv2D(4, 3), L.Flatten(), L.Dense(4, "relu")), {"Reshape": 1, "Dense": 2}),
    "reshaped": (lambda: through(L.Reshape((12, 6, 6)), L.Conv2D(4, 3)), {"Reshape": 1}),
    "padded pool": (lambda: through(L.ReLU(), L.ZeroPadding2D(1), L.MaxPooling2D(3, 2)), {"Pool": 1, "Pad": 0}),
    "mean of padded": (lambda: through(L.ZeroPadding2D(1), L.AveragePooling2D(3, 2)), {"Pool": 1, "Pad": 1}),
    "nothing in inference": (
        lambda: through(L.SpatialDropout2D(0.5), L.GaussianNoise(1.0), L.Identity(), L.Conv2D(4, 1)),
        {"Convolution": 1, "Scale": 0},
    ),
}
"""Layers, and what becomes of them; the head has one more `Dense` and, of a map, a `GlobalPool`."""


@pytest.mark.parametrize("case", RULES)
def test_a_rule_computes_as_keras_does(case: str) -> None:
    make, wanted = RULES[case]
    found = check(classifier(make()))
    assert not found["Call"]
    assert {kind: found[kind] for kind in wanted} == wanted


CALLED: dict[str, Callable[[], Maker]] = {
    "leaky": lambda: through(L.Conv2D(4, 3), L.LeakyReLU(0.1)),
    "threshold": lambda: through(L.Conv2D(4, 3), L.ReLU(threshold=0.5)),
    "norm of rows": lambda: through(L.BatchNormalization(axis=1)),
    "uneven strides": lambda: through(L.Conv2D(4, 3, (1, 2))),
    "a map's constant": lambda: lambda x: x * np.arange(8.0)[:, None],
    "a number by the map": lambda: lambda x: 1.0 / (x + 10.0),
    "rows side by side": lambda: lambda x: L.Concatenate(1)([x, x]),
    "parts in order": lambda: lambda x: keras.ops.stack([x[..., i] for i in (1, 0)], axis=-1),
    "broadcast sum": lambda: lambda x: x + L.GlobalAveragePooling2D(keepdims=True)(x),
    "a map's tensor": lambda: lambda x: x * keras.ops.arange(8.0)[:, None],
    "a tensor of its own": lambda: through(L.Conv2D(4, 3), Holding()),
    "normalization of rows": lambda: through(L.Normalization(1, mean=np.arange(9.0), variance=np.arange(1.0, 10))),
    "transposed": lambda: through(L.Conv2DTranspose(4, 3, 2), L.GroupNormalization(2), L.UpSampling2D()),
}


@pytest.mark.parametrize("case", CALLED)
def test_what_has_no_rule_is_called(case: str) -> None:
    assert check(classifier(CALLED[case]()))["Call"]


class Holding(keras.layers.Layer):
    """A layer with a tensor that is no weight."""

    def build(self, input_shape: Any) -> None:
        self.ramp = keras.ops.arange(input_shape[1], dtype="float32")[:, None, None]

    def call(self, x: Any) -> Any:
        return x * self.ramp


class Swapped(keras.layers.Layer):
    """A layer that nobody knows, with a weight, in inference another than in training."""

    def build(self, input_shape: Any) -> None:
        self.factor = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="factor")

    def call(self, x: Any, training: bool = False) -> Any:
        return keras.ops.flip(x, 1) * self.factor if not training else x


class Shifted(keras.layers.ReLU):
    """By its class one that is known."""

    def call(self, x: Any) -> Any:
        return super().call(x - 0.25)


def unknown(x: Any) -> Any:
    x = Swapped()(L.BatchNormalization()(L.Conv2D(8, 3, padding="same", use_bias=False)(x)))
    x = Shifted()(L.Conv2D(8, 3)(x))
    return L.Activation("silu")(L.Add()([x, L.DepthwiseConv2D(3, padding="same")(x)]))


def test_a_layer_that_nobody_knows_stands_between_those_that_are() -> None:
    model = classifier(unknown)
    found = check(model)
    assert (found["Call"], found["Convolution"]) == (2, 3)
    (got, _), _ = run(lower(model), IMAGES, tf.bfloat16)
    np.testing.assert_allclose(got, model(IMAGES.astype("float32"), training=False), atol=0.02)


def test_what_two_layers_read_is_computed_once() -> None:
    """Nothing is folded into a convolution whose output something else reads."""

    def make(x: Any) -> Any:
        x = L.Conv2D(6, 3, padding="same")(x)
        return L.Concatenate()([L.BatchNormalization()(x), L.ReLU()(x), x])

    found = check(classifier(make))
    assert (found["Convolution"], found["Scale"], found["Activation"]) == (1, 1, 1)


def mobile(x: Any) -> Any:
    x = L.ReLU(6.0)(L.BatchNormalization()(L.Conv2D(8, 3, 2, padding="same", use_bias=False)(x)))
    x = L.ZeroPadding2D(((0, 1), (0, 1)))(x)
    x = L.ReLU(6.0)(L.BatchNormalization()(L.DepthwiseConv2D(3, 2, use_bias=False)(x)))
    y = L.Activation("silu")(L.BatchNormalization()(L.Conv2D(8, 1, use_bias=False)(x)))
    y = L.Activation("hard_silu")(L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same")(y)))
    x = L.Add()([x, L.BatchNormalization()(L.Conv2D(8, 1)(y))])
    return L.ReLU()(L.BatchNormalization()(x))


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16], ids=lambda dtype: dtype.name)
def test_activations_sums_and_norms_are_in_the_convolutions(dtype: tf.DType) -> None:
    """TensorFlow puts oneDNN's in place of ours; where it has no oneDNN, there is nothing to see."""
    if not IsMklEnabled():
        pytest.skip("this TensorFlow does not use oneDNN here")
    model = classifier(mobile, (16, 16, 3))
    images = RNG.integers(0, 256, (2, 16, 16, 3), "uint8")
    (got, _), found = run(lower(model), images, dtype)
    np.testing.assert_allclose(got, model(images.astype("float32")), atol=1e-5 if dtype == tf.float32 else 0.02)
    assert found["_MklNativeFusedConv2D"] == 3
    assert found["_MklNativeFusedDepthwiseConv2dNative"] == 2 + 1  # the last is the norm that reads a sum
    others = {
        "Relu",
        "Relu6",
        "Mul",
        "Sigmoid",
        "_MklSwish",
        "BiasAdd",
        "FusedBatchNormV3",
        "_MklNativeFusedBatchNormEx",
    }
    assert not found.keys() & others
    assert found["Pad"] == found["AddV2"] == 1  # of the border of pixels


def test_padding_of_an_even_map_is_tensorflows_own() -> None:
    """Zeros after it alone, as MobileNet has them: "same" at stride 2, and no pass over the map for them."""
    model = classifier(mobile, (16, 16, 3))
    depthwise = [one for one in in_order(*lower(model)) if isinstance(one, Convolution) and one.groups > 1]
    assert depthwise[0].padding == ((0, 1), (0, 1)) == depthwise[0].same_sides(8, 8)
    assert depthwise[0].same_sides(7, 9) == ((1, 1), (1, 1))


def test_a_scale_on_a_map_is_exact() -> None:
    x = RNG.normal(size=(2, 5, 7, 6)).astype("float32")
    scale, shift = RNG.normal(size=(2, 6))
    operation = Scale(channels=6, scale=scale, shift=shift, activation="relu")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        got = session.run(emitted(operation, tf.float32, tf.constant(x)))
    np.testing.assert_allclose(got, np.maximum(x * scale + shift, 0), rtol=1e-5, atol=1e-6)
