"""Networks of unknown input size: the answers of the same weights in a network of that size."""

from typing import Any

import keras
import numpy as np
import pytest
from small import randomise
from test_family import kinds, short

import resnet_keras as rk
from resnet_keras.errors import UsageError
from resnet_keras.models.registry import NAMES

RNG = np.random.default_rng(0)
FAMILIES = ("resnet50d", "cifar_resnet8_4", "vgg11", "densenet121", "convnext_tiny", "vit_ti16")
"""A name of each family."""


def answers_alike(name: str, channels: int, **options: Any) -> None:
    """In a network of unknown sides and in those of two sizes, one of them odd and not square."""
    free = rk.create_model(name, input_shape=(None, None, channels), **short(name), **options)
    assert free.input_shape == (None, None, None, channels)
    randomise(free)
    for size in ((33, 50), (32, 32)):
        fixed = rk.create_model(name, input_shape=(*size, channels), **short(name), **options)
        fixed.set_weights(free.get_weights())
        images = RNG.normal(size=(2, *size, channels)).astype("float32")
        expected = fixed(images).numpy()
        scale = np.abs(expected).max()
        assert scale > 0
        np.testing.assert_allclose(free(images), expected, atol=1e-6 * scale)
        # Compiled for any size, where the shapes are tensors.
        np.testing.assert_allclose(free.predict(images, verbose=0), expected, atol=1e-5 * scale)


def test_families_are_all() -> None:
    assert {NAMES[name].family for name in FAMILIES} == {NAMES[name].family for name in rk.list_models()}


@pytest.mark.parametrize("name", ["resnet50d", "vgg11"])  # the others in the slow test below
def test_a_network_of_any_size(name: str) -> None:
    answers_alike(name, 3, classes=3)
    answers_alike(name, 1, include_top=False)


@pytest.mark.slow  # 200 s
@pytest.mark.parametrize("name", kinds())
@pytest.mark.parametrize("channels", [3, 5])
def test_every_kind_of_network_of_any_size(name: str, channels: int) -> None:
    answers_alike(name, channels, classes=3)
    answers_alike(name, channels, include_top=False)
    answers_alike(name, channels, include_top=False, pooling="max")


@pytest.mark.slow  # 5 s of XLA
def test_a_network_of_any_size_learns_from_two_sizes() -> None:
    """VGG, whose dense layers read a grid of cells that depends on the size."""
    model = rk.create_model("vgg11", input_shape=(None, 48, 3), classes=3, **short("vgg11"), dropout=0.0)
    model.compile(keras.optimizers.SGD(1e-3), "sparse_categorical_crossentropy", jit_compile=True)
    for height in (32, 40):
        images, labels = RNG.normal(size=(4, height, 48, 3)).astype("float32"), np.arange(4) % 3
        losses = [float(model.train_on_batch(images, labels)) for _ in range(3)]
        assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("include_top", [True, False])
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((None, None, None), "input_shape is .* with the channels known, not"),
        ((None, 1, 3), r"input \?x1 is too small: this net divides each side by \d+, so give it \d+x\d+ or more"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(name: str, include_top: bool, shape: tuple, message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        rk.create_model(name, input_shape=shape, include_top=include_top)
    assert "\n" not in str(refused.value)
