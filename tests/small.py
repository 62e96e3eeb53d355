"""A small network, random weights, free ports, and where real images are."""

import contextlib
import socket
from pathlib import Path

import keras
import numpy as np

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
TINY = {"blocks": "1,1,1", "widths": "4,4,8", "stem_width": 4}
"""Options that make a CIFAR net small: three blocks and 2,000 weights."""


def randomise(model: keras.Model, seed: int = 0) -> None:
    """Random weights and non-trivial BN statistics, so that no wrong layer hides behind a one or a zero."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        shape = tuple(variable.shape)
        if len(shape) > 1:
            variable.assign(rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape))
        elif variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, shape))
        else:
            variable.assign(rng.normal(0, 0.2, shape))


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
