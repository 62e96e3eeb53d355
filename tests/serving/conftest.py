"""A servable that takes seconds: these tests look at the server, not at what a network has learnt."""

from pathlib import Path

import keras
import pytest

import resnet_keras as rk

LABELS = [str(digit) for digit in range(10)]


@pytest.fixture(scope="session")
def small_model() -> keras.Model:
    """A ResNet-8 with random weights, of the digits' input shape."""
    keras.utils.set_random_seed(0)
    card = rk.ModelCard(mean=(0.3,), std=(0.4,))
    return rk.build_cifar_resnet(8, input_shape=(8, 8, 1), include_preprocessing=card)


@pytest.fixture(scope="session")
def servable(small_model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported version folder of it."""
    return rk.export_servable(small_model, tmp_path_factory.mktemp("saved_models") / "digits", labels=LABELS)
