"""Temperature scaling: the least cross-entropy, found, and nothing else changed."""

import math

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_keras.inference.temperature import LEAST, MOST, fit_temperature


def cross_entropy(logits: np.ndarray, targets: np.ndarray, temperature: float) -> float:
    scaled = logits / temperature
    top = scaled.max(-1, keepdims=True)
    sums = np.log(np.exp(scaled - top).sum(-1)) + top[:, 0]
    return float((sums - scaled[np.arange(len(targets)), targets]).mean())


def sample(seed: int, images: int, classes: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and classes drawn from their softmax; the logits are then too large by `scale`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (images, classes))
    gumbel = rng.gumbel(size=logits.shape)
    return logits * scale, np.argmax(logits + gumbel, -1)


SAMPLES = {
    "seed": st.integers(0, 2**32 - 1),
    "images": st.integers(2, 60),
    "classes": st.integers(2, 12),
    "scale": st.floats(0.2, 5),
}


@settings(deadline=None, max_examples=40)
@given(**SAMPLES)
def test_no_other_temperature_has_less_cross_entropy(seed: int, images: int, classes: int, scale: float) -> None:
    logits, targets = sample(seed, images, classes, scale)
    found = fit_temperature(logits, targets)
    if found is None:
        assert (logits.argmax(-1) == targets).all()
        return
    assert LEAST <= found <= MOST
    least = cross_entropy(logits, targets, found)
    others = [*np.exp(np.linspace(math.log(LEAST), math.log(MOST), 60)), found * 0.99, min(found / 0.99, MOST)]
    assert all(least <= cross_entropy(logits, targets, other) + 1e-9 for other in others)


@settings(deadline=None, max_examples=20)
@given(**SAMPLES, factor=st.floats(0.5, 2))
def test_it_follows_the_scale_of_the_logits_and_not_their_offset(
    seed: int, images: int, classes: int, scale: float, factor: float
) -> None:
    logits, targets = sample(seed, images, classes, scale)
    found, offset = fit_temperature(logits, targets), np.arange(images)[:, None]
    if found is None or not 2 * LEAST < found < MOST / 2:
        return
    assert fit_temperature(logits * factor + offset, targets) == pytest.approx(found * factor, rel=1e-5)


def test_as_scipy_finds_it() -> None:
    logits, targets = sample(0, 500, 10, 3.0)
    scipys = scipy.optimize.minimize_scalar(lambda t: cross_entropy(logits, targets, math.exp(t)), bounds=(-4, 4))
    assert fit_temperature(logits, targets) == pytest.approx(math.exp(scipys.x), rel=1e-4)
    assert fit_temperature(logits, targets) == pytest.approx(3.0, rel=0.1), "what the logits are too large by"


def test_two_classes_by_hand() -> None:
    """Three of four images correct, all by 4: at the temperature 4 / ln 3 they have a probability of 3/4."""
    logits, targets = np.array([[4.0, 0.0]] * 4), np.array([0, 0, 0, 1])
    assert fit_temperature(logits, targets) == pytest.approx(4 / math.log(3))


def test_images_that_are_all_correct_say_nothing() -> None:
    assert fit_temperature(np.eye(3), np.arange(3)) is None
    assert fit_temperature(np.array([[0.0, 0.0]]), np.array([1])) is None


def test_a_network_worse_than_chance_is_to_be_as_unsure_as_can_be() -> None:
    assert fit_temperature(np.array([[1.0, 0.0]] * 3), np.array([0, 1, 1])) == pytest.approx(MOST)
