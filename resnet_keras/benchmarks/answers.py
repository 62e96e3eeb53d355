"""How far the answers of two programs to the same images are apart."""

from collections.abc import Sequence

import numpy as np

SMALLEST = 1e-30


def compared(ones: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> dict[str, float]:
    """Probabilities `[N, classes]` of both: `agreement`, the part of the images with the same top 1, and `cosine`.

    The cosine is of their logarithms about their means, which are the logits where a softmax made them.
    """
    one, other = (np.log(np.maximum(np.array(values), SMALLEST)) for values in (ones, others))
    agreement = float((one.argmax(-1) == other.argmax(-1)).mean())
    one, other = (values - values.mean(-1, keepdims=True) for values in (one, other))
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return {"agreement": agreement, "cosine": float((one * other).sum() / length) if length else 1.0}
