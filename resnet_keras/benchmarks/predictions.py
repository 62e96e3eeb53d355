"""Predictions of any library as a program, on the same images. numpy alone: a peer's process has no TensorFlow."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from resnet_keras.benchmarks.variants import Program

COMPARED = 8
"""Images whose answers are compared."""
Answer = Callable[[np.ndarray], np.ndarray]


def predictions(
    shape: tuple[int, ...],
    answer: Answer,
    facts: Mapping[str, Any],
    prepared: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Program:
    """A program whose call answers a `batch`.

    Args:
        shape: (height, width, channels).
        answer: from images to probabilities.
        facts: of the program; its `answers` are put to them.
        prepared: from `uint8[N, H, W, C]` to what is answered; it is not timed.
    """
    ready = prepared or (lambda images: images)
    images = np.random.default_rng(0).integers(0, 256, (COMPARED, *shape), "uint8")
    kept: dict[int, np.ndarray] = {}

    def run(batch: int) -> dict[str, Any]:
        if batch not in kept:
            kept[batch] = np.ascontiguousarray(ready(np.resize(images, (batch, *shape))))
        answer(kept[batch])
        return {"images": batch}

    answers = [[float(f"{value:.7g}") for value in row] for row in answer(np.ascontiguousarray(ready(images)))]
    return Program(run, facts={**facts, "answers": answers})
