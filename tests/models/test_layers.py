import ast
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from resnet_keras.errors import UsageError
from resnet_keras.models import blocks, layers, recomputation
from resnet_keras.models.blocks import DenseLayer, Transition
from resnet_keras.models.card import ModelCard, imagenet_classes
from resnet_keras.models.layers import (
    ConvNorm,
    NormActivation,
    SqueezeExcitation,
    StandardizedConv2D,
    ZeroPaddedShortcut,
)
from resnet_keras.models.normalization import BatchNormalization, normalization
from resnet_keras.models.pooling import BlurPool, StemMaxPooling
from resnet_keras.models.preprocessing import Preprocessing

RNG = np.random.default_rng(0)


def correlate(x: np.ndarray, kernel: np.ndarray, strides: int) -> np.ndarray:
    """A convolution from its definition, `k // 2` zeros on every side."""
    side = kernel.shape[0]
    padded = np.pad(x, ((0, 0), (side // 2, side // 2), (side // 2, side // 2), (0, 0)))
    height, width = ((n - 1) // strides + 1 for n in x.shape[1:3])
    out = np.zeros((len(x), height, width, kernel.shape[-1]))
    for row in range(height):
        for column in range(width):
            window = padded[:, row * strides : row * strides + side, column * strides : column * strides + side]
            out[:, row, column] = np.einsum("nhwc,hwcf->nf", window, kernel)
    return out


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize(("kernel_size", "strides"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
def test_convolution_pads_the_same_on_every_side(size: int, kernel_size: int, strides: int) -> None:
    x = RNG.normal(size=(2, size, size + 2, 3)).astype("float32")
    layer = ConvNorm(4, kernel_size, strides, norm=None)
    out = layer(x)
    conv = next(sub for sub in layer.layers if sub.name == "conv")
    np.testing.assert_allclose(out, correlate(x, conv.kernel.numpy(), strides), atol=1e-5)
    assert layer.compute_output_shape(x.shape) == out.shape


@pytest.mark.parametrize("size", [7, 8])
def test_stem_pooling_pads_with_minus_infinity(size: int) -> None:
    x = -RNG.uniform(1, 2, size=(1, size, size, 2)).astype("float32")  # below zero, so that padded zeros would show
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    side = (size - 1) // 2 + 1
    expected = [[padded[0, 2 * r : 2 * r + 3, 2 * c : 2 * c + 3].max((0, 1)) for c in range(side)] for r in range(side)]
    layer = StemMaxPooling()
    np.testing.assert_array_equal(layer(x)[0], expected)
    assert layer.compute_output_shape(x.shape) == (1, side, side, 2)


def test_stem_pooling_with_another_edge() -> None:
    x = -RNG.uniform(1, 2, size=(1, 6, 6, 2)).astype("float32")
    out = StemMaxPooling(0.0)(x).numpy()
    assert (out[0, 0] == 0).all()
    np.testing.assert_array_equal(out[0, 1:, 1:], StemMaxPooling()(x)[0, 1:, 1:])


@pytest.mark.parametrize("size", [7, 8])
def test_blur_is_the_binomial_kernel_with_mirrored_edges(size: int) -> None:
    x = RNG.normal(size=(2, size, size, 3)).astype("float32")
    taps = np.array([0.25, 0.5, 0.25])
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    rows = np.sum([taps[i] * padded[:, i : i + size] for i in range(3)], axis=0)
    blurred = np.sum([taps[j] * rows[:, :, j : j + size] for j in range(3)], axis=0)
    layer = BlurPool()
    np.testing.assert_allclose(layer(x), blurred[:, ::2, ::2], atol=1e-6)
    assert layer.compute_output_shape(x.shape) == layer(x).shape
    np.testing.assert_allclose(BlurPool(1)(x), blurred, atol=1e-6)


@pytest.mark.parametrize("groups", [1, 4])
def test_standardised_filters_have_mean_zero_and_variance_one(groups: int) -> None:
    x = RNG.normal(size=(1, 5, 5, 8)).astype("float32")
    layer, plain = (kind(12, 3, groups=groups, use_bias=False) for kind in (StandardizedConv2D, keras.layers.Conv2D))
    out = layer(x)
    kernel = layer.kernel.numpy()
    plain(x)
    plain.set_weights([(kernel - kernel.mean((0, 1, 2))) / kernel.std((0, 1, 2))])
    np.testing.assert_allclose(out, plain(x), rtol=1e-4, atol=1e-4)
    layer.kernel.assign(kernel * 7 + 3)
    np.testing.assert_allclose(layer(x), out, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("norm", "channels", "groups"),
    [
        ("group", 64, 32),
        ("group", 96, 32),
        ("group", 32, 16),
        ("group", 24, 8),
        ("group", 16, 8),
        ("group", 9, 1),
        ("group1", 64, 1),
    ],
)
def test_norms_of_groups(norm, channels: int, groups: int) -> None:
    x = RNG.normal(3, 2, size=(2, 4, 5, channels)).astype("float32")
    layer = normalization(norm, channels, "norm", "float32")
    out = layer(x).numpy().reshape(2, 20, groups, channels // groups)
    np.testing.assert_allclose(out.mean((1, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(out.std((1, 3)), 1, atol=1e-3)


def test_zero_padded_shortcut() -> None:
    x = RNG.normal(size=(2, 5, 5, 4)).astype("float32")
    out = ZeroPaddedShortcut(8, 2)(x).numpy()
    np.testing.assert_array_equal(out[..., 2:6], x[:, ::2, ::2])
    assert not out[..., :2].any()
    assert not out[..., 6:].any()


def test_squeeze_excitation_is_its_formula() -> None:
    x = RNG.normal(size=(2, 5, 5, 32)).astype("float32")
    layer = SqueezeExcitation(1 / 16)
    out = layer(x)
    reduce, expand = layer.layers[1:]
    assert reduce.units == 2
    hidden = np.maximum(x.mean((1, 2)) @ reduce.kernel.numpy() + reduce.bias.numpy(), 0)
    gate = 1 / (1 + np.exp(-(hidden @ expand.kernel.numpy() + expand.bias.numpy())))
    np.testing.assert_allclose(out, x * gate[:, None, None], rtol=1e-4, atol=1e-5)


def test_norm_has_the_papers_constants() -> None:
    layer = NormActivation()
    layer.build((None, 4, 4, 8))
    norm = layer.layers[0]
    assert (norm.momentum, norm.epsilon) == (0.9, 1e-5)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16", "float64"])
@pytest.mark.parametrize("shape", [(8, 5, 4, 6), (1, 1, 1, 6)])
def test_fused_batch_norm_is_kerass(policy: str, shape: tuple[int, ...]) -> None:
    """Outputs, gradients and statistics, in training, in inference and frozen; half precision to its own rounding."""
    x = tf.constant(RNG.normal(1, 2, size=shape), tf.float32)
    results = []
    for kind in (keras.layers.BatchNormalization, BatchNormalization):
        layer = kind(momentum=0.9, epsilon=1e-5, dtype=policy)
        layer.build(shape)
        layer.gamma.assign(np.linspace(0.5, 2, 6))
        results.append([])
        for training, trainable in ((True, True), (False, True), (True, False)):
            layer.trainable = trainable
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=training)
                loss = tf.reduce_sum(tf.cast(y, tf.float32) ** 3)
            weights = [layer.gamma.value, layer.beta.value]
            gradients = tape.gradient(loss, [x, *weights])
            results[-1] += [y, *gradients, layer.moving_mean.value, layer.moving_variance.value]
    rounding = {"mixed_bfloat16": 2e-2, "mixed_float16": 2e-3}.get(policy, 2e-5)
    for expected, got in zip(*results, strict=True):
        assert expected.dtype == got.dtype
        largest = 1 + np.abs(expected.numpy().astype("float64")).max()
        np.testing.assert_allclose(got.numpy().astype("float64"), expected.numpy(), atol=rounding * largest)


def test_a_layer_has_tensorflow_only_where_it_is_recomputed() -> None:
    """In a file's own imports; those inside a function are made when it is called."""
    for module, expected in ((layers, False), (blocks, False), (recomputation, True)):
        tree = ast.parse(Path(module.__file__ or "").read_text())
        names = [
            name for node in tree.body if isinstance(node, ast.Import) for name in (alias.name for alias in node.names)
        ]
        names += [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)]
        assert any(name.startswith("tensorflow") for name in names) == expected
        assert (recomputation.__name__ in names) is False


def test_initial_kernel_has_the_variance_of_fan_out() -> None:
    layer = ConvNorm(256, 3)
    layer.build((None, 8, 8, 64))
    kernel = layer.layers[0].kernel.numpy()
    # 147,456 draws: the standard error of the deviation is 0.2 %.
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 256)), rel=0.02)


def test_preprocessing_computes_in_float32_and_carries_its_card() -> None:
    card = ModelCard(mean=(0.5,), std=(0.25,), labels=("a", "b"), metrics={"accuracy": 0.5})
    layer = Preprocessing(card, dtype="mixed_float16")
    out = layer(tf.constant([[[[0.0], [255.0], [51.0]]]], tf.float16))
    assert out.dtype == tf.float32
    np.testing.assert_allclose(out[0, 0, :, 0], [-2.0, 2.0, -1.2], atol=1e-6)
    assert Preprocessing.from_config(layer.get_config()).card == card


def test_preprocessing_in_another_order_of_channels() -> None:
    card = ModelCard(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), channels="BGR", input_size=(32, 48))
    pixels = RNG.integers(0, 256, (1, 2, 2, 3)).astype("float32")
    expected = ((pixels / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7])[..., ::-1]
    np.testing.assert_allclose(Preprocessing(card)(pixels), expected, rtol=1e-5, atol=1e-6)
    carrier = Preprocessing(card, normalise=False)
    np.testing.assert_array_equal(carrier(pixels), pixels)
    assert Preprocessing.from_config(carrier.get_config()).get_config() == carrier.get_config()
    with pytest.raises(UsageError, match="unknown order of channels 'GBR'; choose from RGB, BGR"):
        ModelCard(channels="GBR")  # type: ignore[arg-type]


def test_imagenet_classes() -> None:
    ids, labels = imagenet_classes()
    assert len(set(ids)) == len(set(labels)) == 1000
    assert list(ids) == sorted(ids)
    assert (ids[0], labels[0], ids[-1], labels[-1]) == ("n01440764", "tench", "n15075141", "toilet tissue")


@pytest.mark.parametrize(
    "layer",
    [
        ConvNorm(8, 3, 2, 2, "sync_batch", "relu", True),
        ConvNorm(8, 3, 2, norm="group", use_bias=True, antialias=True, weight_standardization=True),
        ConvNorm(8, 3, dilation=2, norm="group1"),
        BlurPool(),
        StemMaxPooling(0.0),
        DenseLayer(4, se_ratio=0.5, dropout=0.1, norm="group"),
        Transition(4, activation="gelu"),
        NormActivation("batch", "gelu"),
        SqueezeExcitation(0.25),
        ZeroPaddedShortcut(16, 2),
        StemMaxPooling(name="pool"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_config_is_complete(layer: keras.layers.Layer) -> None:
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert again(tf.zeros((1, 8, 8, 8))).shape == layer(tf.zeros((1, 8, 8, 8))).shape
