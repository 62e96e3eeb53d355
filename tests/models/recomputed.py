"""Whether a block that computes its activations again has the gradients of one that keeps them."""

from typing import Any

import numpy as np
import tensorflow as tf
from small import randomise


def check_recomputation(block: Any, x: tf.Tensor, tolerance: float) -> None:
    """Compare the gradients of the input and of each weight of a block, in training mode."""
    block(x)
    randomise(block)

    def gradients(rematerialize: bool) -> Any:
        block.rematerialize = rematerialize
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(block(x, training=True) ** 2)
        return tape.gradient(loss, [x, *(w.value for w in block.trainable_weights)])

    for plain, recomputed in zip(*(tf.function(gradients)(which) for which in (False, True)), strict=True):
        np.testing.assert_allclose(recomputed, plain, rtol=tolerance, atol=tolerance)
