"""Calibration by hand-made predictions, and the mistakes that are kept."""

import numpy as np
import pytest

from resnet_keras.inference.reliability import MISTAKES, ReliabilityLog


def pixels_of(places: range) -> np.ndarray:
    """Images of one grey, by which each is known again."""
    return np.stack([np.full((2, 2, 1), place, "float32") for place in places])


def test_the_calibration_error_by_hand() -> None:
    """Guo et al. 2017, equation 5: four images of 0.7 of which one is wrong, and two of 0.5, both wrong."""
    log = ReliabilityLog()
    log.add(pixels_of(range(4)), np.array([[0.7, 0.3]] * 4), np.array([0, 0, 0, 1]))
    log.add(pixels_of(range(4, 6)), np.array([[0.5, 0.5]] * 2), np.array([1, 1]))
    found = log.result()
    assert found.ece == pytest.approx(4 / 6 * abs(0.75 - 0.7) + 2 / 6 * 0.5, abs=1e-6)
    assert [(one.examples, round(one.accuracy, 2)) for one in found.bins] == [(2, 0.0), (4, 0.75)]
    assert all(one.low < one.confidence <= one.high + 1e-6 for one in found.bins)
    assert found.correct.tolist() == [True, True, True, False, False, False]


def test_a_sure_and_right_model_has_no_error() -> None:
    log = ReliabilityLog()
    log.add(pixels_of(range(3)), np.eye(3), np.arange(3))
    assert log.result().ece == 0
    assert log.result().mistakes == ()


def test_the_most_confident_mistakes_are_kept_whatever_the_batches() -> None:
    rng = np.random.default_rng(0)
    sure = rng.permutation(np.linspace(0.55, 0.99, 40))
    probabilities = np.stack([sure, 1 - sure], -1)
    targets = rng.integers(0, 2, 40)
    wrong = np.flatnonzero(targets == 1)
    expected = wrong[np.argsort(-sure[wrong])][:MISTAKES].tolist()
    for size in (40, 7, 1):
        log = ReliabilityLog()
        for start in range(0, 40, size):
            part = slice(start, start + size)
            log.add(pixels_of(range(40)[part]), probabilities[part], targets[part])
        found = log.result().mistakes
        assert [one.place for one in found] == expected
        assert [int(one.pixels[0, 0, 0]) for one in found] == expected
        assert all((one.target, one.predicted) == (1, 0) for one in found)


def test_nan_is_no_confidence() -> None:
    log = ReliabilityLog()
    log.add(pixels_of(range(2)), np.full((2, 3), np.nan), np.array([0, 1]))
    assert log.result().ece == pytest.approx(0.5)
