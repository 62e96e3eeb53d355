"""Steps of the optimizers on one kernel, against sums by hand."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from resnet_keras.config.train import Optimizer, Schedule
from resnet_keras.models.optimizer import PureOptimizer
from resnet_keras.training.optimizers import make_optimizer
from resnet_keras.training.schedule import RunSchedule


def step_of(config: Optimizer, weight: Any, schedule: RunSchedule | None = None) -> Callable[[Any], np.ndarray]:
    """A function from the gradient of a kernel, of two dimensions so that it decays, to the kernel after a step."""
    kernel = keras.Variable(np.asarray(weight, "float32"), name="kernel")
    optimizer = make_optimizer(config, schedule or config.learning_rate, [kernel])
    pure = PureOptimizer(optimizer)
    values = [tf.convert_to_tensor(kernel)], [tf.convert_to_tensor(v) for v in optimizer.variables]

    def step(gradient: Any) -> np.ndarray:
        nonlocal values
        values = pure(values[1], [tf.constant(gradient, tf.float32)], values[0])
        return np.asarray(values[0][0])

    return step


@pytest.mark.parametrize(
    ("algorithm", "decay", "expected"),
    [
        # v = g + w / 2 = [2.5, 4], w -= 0.1 (v + 0.9 v); then v = 0.9 [2.5, 4] + [-1, 2] + w / 2.
        ("sgd", 0.5, [[2.525, 3.24], [2.272625, 2.2282]]),
        ("sgd", 0.0, [[2.81, 3.62], [2.919, 3.078]]),
        # c = [1, 1] + w / 2 = [2.5, 3], w -= 0.1 |w| / |c| c = 0.1 x 5 / 3.905125 c; then c = [-0.052632, 1] + w / 2.
        ("lamb", 0.5, [[2.679908, 3.615889], [2.492341, 3.206763]]),
        # Adam's: 0.1 times [1, 1], then times [-0.01 / 0.19, 0.38 / 0.19 / 2].
        ("lamb", 0.0, [[2.9, 3.9], [2.905263, 3.8]]),
    ],
)
def test_two_steps_by_hand(algorithm: Any, decay: float, expected: list[list[float]]) -> None:
    """From w = [3, 4] at a rate of 0.1, with the gradients [1, 2] and [-1, 2]."""
    step = step_of(Optimizer(algorithm=algorithm, weight_decay=decay), [[3.0, 4.0]])
    for gradient, weight in zip([[1.0, 2.0], [-1.0, 2.0]], expected, strict=True):
        np.testing.assert_allclose(step([gradient]), [weight], rtol=1e-5)


@pytest.mark.parametrize("resets", [False, True])
def test_momentum_starts_anew_at_milestones(resets: bool) -> None:
    """szagoruyko/wide-residual-networks, train.lua, lines 179 to 184: the state of the optimizer is made anew."""
    total, gradient = 8, np.ones((1, 2))
    schedule = Schedule("step", milestones=(0.25, 0.75), factor=0.5, reset_momentum=resets)
    step = step_of(Optimizer(1.0, nesterov=False, weight_decay=0), [[0.0, 0.0]], RunSchedule(1.0, schedule, total))
    weight, velocity = 0.0, 0.0
    for i in range(total):
        velocity = 1 + (0 if resets and i in (2, 6) else 0.9 * velocity)
        weight -= 0.5 ** ((i >= 2) + (i >= 6)) * velocity
        np.testing.assert_allclose(step(gradient), [[weight, weight]], rtol=1e-5)


@pytest.mark.parametrize(
    ("algorithm", "own"), [("adamw", 1e-7), ("adam", 1e-7), ("rmsprop", 1e-7), ("muon", 1e-7), ("lamb", 1e-6)]
)
def test_epsilon_slows_what_has_small_gradients(algorithm: Any, own: float) -> None:
    """LAMB's first step is g / (|g| + epsilon); Keras adds it to the mean before that is corrected, a thousandth."""
    gradient = 1e-7
    for epsilon in (0.0, 1e-8):
        config = Optimizer(0.1, 0.0, algorithm=algorithm, weight_decay=0, nesterov=False, epsilon=epsilon)
        bias = keras.Variable(np.zeros(2, "float32"), name="bias")  # which muon moves as adamw
        optimizer = make_optimizer(config, 0.1, [bias])
        state = [tf.convert_to_tensor(v) for v in optimizer.variables]
        moved, _ = PureOptimizer(optimizer)(state, [tf.fill([2], gradient)], [tf.zeros(2)])
        added = epsilon or own
        if algorithm == "rmsprop":
            by = gradient / np.sqrt(gradient**2 / 1000 + added)
        else:
            by = gradient / (gradient + added * (1 if algorithm == "lamb" else 1000**0.5))
        np.testing.assert_allclose(moved[0], [-0.1 * by] * 2, rtol=1e-3)


def test_lamb_moves_what_starts_at_zero() -> None:
    step = step_of(Optimizer(algorithm="lamb", weight_decay=0.5), np.zeros((1, 3)))
    np.testing.assert_allclose(step(np.ones((1, 3))), -0.1 * np.ones((1, 3)), rtol=1e-4)
