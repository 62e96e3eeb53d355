"""Temperature scaling (Guo et al. 2017, section 4.2): the one number that divides the logits."""

import numpy as np

LEAST, MOST = 0.01, 100.0
"""Temperatures that are looked at."""
HALVINGS = 40


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float | None:
    """The temperature at which the mean cross-entropy of `softmax(logits / temperature)` is least.

    As a function of the logarithm of the temperature it falls, then rises; the place between is found by halving. No
    prediction changes: all logits of an image are divided by the same positive number.

    Args:
        logits: `[N, classes]`.
        targets: int `[N]`, the true classes.

    Returns:
        The temperature, 0.01 to 100; None where every image is correct, so that a lower one is always better.

    Example:
        >>> fit_temperature(np.array([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [4.0, 0.0]]), np.array([0, 0, 0, 1]))
        3.640...
    """
    own = np.take_along_axis(logits, targets[:, None], -1)
    above = (logits - own).astype("float64")  # what each class has more than the true one
    if (above <= 0).all():
        return None

    def rises(log_temperature: float) -> bool:
        """Whether the cross-entropy rises with the temperature here: images are less confident than correct."""
        scaled = above * np.exp(-log_temperature)
        weights = np.exp(scaled - scaled.max(-1, keepdims=True))
        return float(((weights * above).sum(-1) / weights.sum(-1)).mean()) < 0

    low, high = np.log(LEAST), np.log(MOST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if rises(middle) else (middle, high)
    return float(np.exp((low + high) / 2))
