"""The arithmetic of a run in int8: that of the export, with gradients."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import randomise

import resnet_keras as rk
from resnet_keras.export.calibration import PASSES, choose_ranges
from resnet_keras.export.fake_quantized import FakeInt8Graph, fake_quantized_kernel, levels_of
from resnet_keras.export.lowering import lower
from resnet_keras.export.operations import Convolution, in_order, maps_of
from resnet_keras.export.quantized import SIGNED_LEVELS, Int8Graph, available, kernel_levels, quantized_kernel
from resnet_keras.progress import progress
from resnet_keras.training.quantization import Quantization

RNG = np.random.default_rng(0)
needs_int8 = pytest.mark.skipif(
    not available(), reason="this TensorFlow has no quantised convolution (oneDNN on x86 has it)"
)
LEVELS = kernel_levels() or SIGNED_LEVELS


def net(size: int = 8, channels: int = 1, **options: Any) -> keras.Model:
    card = rk.ModelCard(mean=(0.4,), std=(0.3,), crop=1.0)
    options = {"blocks": (1, 1, 1), "widths": (8, 8, 16), "stem_width": 8, "include_preprocessing": card, **options}
    model = rk.create_model("cifar_resnet20", input_shape=(size, size, channels), classes=10, **options)
    randomise(model)
    return model


def ranges_of(model: keras.Model, images: np.ndarray) -> tuple[float, ...]:
    with progress("", PASSES * len(images)) as task:
        return choose_ranges(lower(model), images, model.name, task, arithmetic=FakeInt8Graph)[0]


def test_levels_are_those_of_the_export_to_the_bit() -> None:
    top = 3.7
    halves = (np.arange(-3, 259) + 0.5) * top / 255
    values = np.concatenate([RNG.normal(1, 2, 10_000), halves, [0.0, top, -1e9, 1e9, 1e-9]]).astype("float32")
    wanted, _, _ = tf.raw_ops.QuantizeV2(
        input=values, min_range=0.0, max_range=top, T=tf.quint8, mode="SCALED", round_mode="HALF_TO_EVEN"
    )
    np.testing.assert_array_equal(levels_of(tf.constant(values), top), tf.bitcast(wanted, tf.uint8))


@pytest.mark.parametrize("most", [127, 64])
def test_kernels_are_those_of_the_export_to_the_bit(most: int) -> None:
    kernel = RNG.normal(size=(3, 3, 4, 5)) * [1e-3, 1, 10, 0, 100]
    values, limits = quantized_kernel(kernel, most)
    levels, of_channels = fake_quantized_kernel(kernel, most)
    np.testing.assert_array_equal(levels, values)
    np.testing.assert_array_equal(of_channels, limits)


def test_gradients_go_straight_through_rounding_and_stop_at_the_range() -> None:
    x, kernel = tf.constant([-0.5, 0.01, 1.3, 1.99, 2.5]), tf.constant(RNG.normal(size=(3, 3, 2, 4)))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch((x, kernel))
        y = levels_of(x, 2.0) * (2.0 / 255)
        levels, limits = fake_quantized_kernel(kernel)
        total = tf.reduce_sum(levels * (limits / 127))
    found: Any = tape.gradient(y, x)
    np.testing.assert_allclose(found, [0, 1, 1, 1, 0], rtol=1e-6)
    found = tape.gradient(total, kernel)
    np.testing.assert_allclose(found, np.ones((3, 3, 2, 4)), rtol=1e-6)


KINDS: dict[str, dict[str, Any]] = {
    "shortcut A": {},
    "shortcut B": {"shortcut": "B"},
    "shortcut D": {"shortcut": "D"},
    "pre-activation": {"preactivation": True},
    "standardized": {"weight_standardization": True, "norm": "group"},
    "gates": {"se_ratio": 0.25},
    "groups": {"block": "bottleneck", "cardinality": 4, "shortcut": "B"},
}
QUICK = ("shortcut B",)
SOME_KINDS = [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in KINDS]
"""2 s each."""


@pytest.mark.parametrize("kind", SOME_KINDS)
def test_live_weights_are_lowered_as_constants_are(kind: str) -> None:
    """Kernels to the last level, so also where norms are folded; and each weight has its gradient."""
    model = net(**KINDS[kind])
    images = RNG.integers(0, 256, (8, 8, 8, 1), "uint8")
    constant = [one for one in in_order(*lower(model)) if isinstance(one, Convolution)]
    levels: Callable[[Any], list[Any]] = lambda found: [fake_quantized_kernel(one.kernel) for one in found]  # noqa: E731
    traced = tf.function(
        lambda: levels([one for one in in_order(*lower(model)) if isinstance(one, Convolution)]), autograph=False
    )()
    for one, (values, limits) in zip(constant, traced, strict=True):
        expected = quantized_kernel(one.kernel)
        np.testing.assert_array_equal(values, expected[0])
        np.testing.assert_array_equal(limits, expected[1])
    logits = keras.Model(model.input, model.get_layer("logits").output)
    quantised = Quantization(model, [9.0] * len(maps_of(*lower(model))), {}).in_int8(logits)
    assert [v.path for v in quantised.variables] == [v.path for v in model.variables]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(quantised(images, training=True) ** 2)
    gradients: Any = tape.gradient(loss, [weight.value for weight in model.trainable_variables])
    for weight, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert gradient is not None, weight.path
        assert np.isfinite(gradient).all(), weight.path
    assert any(np.abs(gradient).max() > 0 for gradient in gradients)


@needs_int8
@pytest.mark.parametrize("kind", SOME_KINDS)
def test_each_convolution_gives_the_levels_of_the_export(kind: str) -> None:
    """From the same levels in: but for sums that rounding meets at a half, and then by one level."""
    model, images = net(**KINDS[kind]), RNG.integers(0, 256, (16, 8, 8, 1), "uint8")
    ends = lower(model)
    ranges = dict(zip(maps_of(*ends), ranges_of(model, images), strict=True))
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        pixels = tf.compat.v1.placeholder(tf.uint8, (None, 8, 8, 1))
        real, fake = Int8Graph(ranges, pixels, LEVELS), FakeInt8Graph(ranges, pixels, LEVELS)
        real.emit(ends)
        fake.emit(ends)
        levels = {x: tf.cast(tf.bitcast(y.tensor, tf.uint8), tf.float32) for x, y in real.quantized.items()}
        assert real.quantized.keys() == fake.quantized.keys()
        assert real.int8_macs == fake.int8_macs > 0
        for one in real.quantized:
            assert (real.quantized[one].range, real.quantized[one].offset) == (
                fake.quantized[one].range,
                fake.quantized[one].offset,
            )
            known = [x for x in one.inputs if x in levels]
            values = session.run([levels[x] for x in known], {pixels: images})
            feed: dict[Any, Any] = {fake.quantized[x].tensor: v for x, v in zip(known, values, strict=True)}
            expected = session.run(levels[one], {pixels: images})
            got = session.run(fake.quantized[one].tensor, {pixels: images, **feed})
            if len(known) == len(one.inputs):
                assert np.abs(got - expected).max() <= 1
                assert (got != expected).mean() < 1e-3
