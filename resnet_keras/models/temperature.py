"""The temperature of a classifier's logits, kept in the weights of its head."""

from typing import Any

import keras

from resnet_keras.errors import UsageError
from resnet_keras.models.around import LogProbabilities
from resnet_keras.models.graph import head_of

ENDS = (keras.layers.Activation, keras.layers.Softmax, keras.layers.Identity, LogProbabilities)
"""Between a dense layer and probabilities: nothing that another scale of the logits would be lost in."""


def scale_logits(model: keras.Model, factor: float) -> None:
    """Multiply the logits of a classifier by a factor, in the kernel and the bias of its last dense layer.

    Divided by a temperature, they give calibrated probabilities wherever the weights go: to a `.keras` file, to a
    servable, to another library.

    Raises:
        UsageError: the model does not end in a dense layer and a softmax.
    """
    dense = dense_head(model)
    for variable in (dense.kernel, dense.bias):
        if variable is not None:
            variable.assign(keras.ops.multiply(variable, factor))


def dense_head(model: keras.Model) -> Any:
    """The dense layer whose outputs go to a classifier's softmax as they are.

    Raises:
        UsageError: there is none.
    """
    head = head_of(model)
    plain = (None, keras.activations.linear, keras.activations.softmax)
    behind = [layer for layer, _ in head.layers if layer is not head.dense]
    wrong = [one for one in behind if not isinstance(one, ENDS) or getattr(one, "activation", None) not in plain]
    if head.dense is None or head.dense.activation not in plain or wrong:
        raise UsageError(f"{model.name} has no temperature: it does not end in a dense layer and a softmax alone")
    return head.dense
