"""Recomputation by TensorFlow's custom gradients: the backward pass keeps a layer's input and computes the rest again.

This module imports TensorFlow, so `Recomputable` imports it where it is used.
"""

from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakKeyDictionary

import keras
import tensorflow as tf
from keras import ops
from tensorflow.python.eager import record

from resnet_keras.models.variables import roles_of

_PASSES: WeakKeyDictionary[Any, dict[Hashable, tuple[Any, ...]]] = WeakKeyDictionary()
"""For each graph and kind of layer in it, the two passes of `recomputed`."""


def recompute(layer: keras.Layer, forward: Callable[[Any], Any], kind: Hashable, x: Any) -> Any:
    """`forward(x)`, of which the backward pass keeps `x` and the layer's variables alone.

    Args:
        layer: the layer whose variables `forward` reads and moves.
        forward: its computation.
        kind: the same for layers that compute the same function of tensors of one shape.
        x: its input.
    """
    seeds = roles_of(layer).seeds
    # What they are now, and not a variable that the first pass moves on.
    drawn = [(v, ops.add(v, 0)) for v in seeds]
    known = {id(v) for v in seeds}
    variables = [v for v in layer.variables if id(v) not in known]

    # A pure function: what a norm does to its statistics comes out of it, and counts once.
    def pure(x: Any, *values: Any) -> Any:
        with keras.StatelessScope([*drawn, *zip(variables, values, strict=True)]) as scope:
            y = forward(x)
        return y, *(ops.convert_to_tensor(scope.get_current_value(v)) for v in layer.non_trainable_variables)

    tensors = [x, *(ops.convert_to_tensor(v) for v in variables)]
    shapes = tuple((tensor.dtype, tuple(tensor.shape)) for tensor in tensors)
    y, *changed = recomputed(pure, None if seeds else (kind, shapes), *tensors)
    for variable, value in zip(layer.non_trainable_variables, changed, strict=True):
        variable.assign(value)
    return y


def recomputed(function: Callable[..., tuple[Any, ...]], kind: Hashable, *tensors: Any) -> tuple[Any, ...]:
    """`function(*tensors)`, of which the backward pass keeps the tensors alone, and computes the rest again.

    The gradient is that of the first result. In a graph, functions of one kind are traced once and called: a net of a
    thousand layers is a few functions, where `tf.recompute_grad` would walk through all of the graph for each layer.

    Args:
        function: pure.
        kind: the same for functions that compute the same; None for one of its own.
        tensors: its arguments.
    """

    def backward(gradient: Any, *tensors: Any) -> Any:
        # Zero, but not known to be before the gradient is there: else the compiler would find the two passes to be the
        # same, and keep the first.
        some = tf.reshape(gradient, [-1])[0]
        zero = tf.where(tf.math.is_nan(some), tf.zeros_like(some), tf.minimum(tf.abs(some), tf.zeros_like(some)))
        first, *rest = tensors
        again = [first + tf.cast(zero, first.dtype), *map(tf.identity, rest)]
        with tf.GradientTape() as tape:
            tape.watch(again)
            y = function(*again)[0]
        return tape.gradient(y, again, gradient, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    passes: tuple[Any, ...] = (function, backward)
    if kind is not None and not tf.executing_eagerly():
        known = _PASSES.setdefault(tf.compat.v1.get_default_graph(), {})
        if kind not in known:
            apart: dict[str, Any] = {"autograph": False, "experimental_attributes": {"_noinline": True}}
            known[kind] = tuple(tf.function(one, **apart) for one in passes)
        passes = known[kind]

    @tf.custom_gradient
    def forward(*tensors: Any) -> Any:
        with record.stop_recording():  # else the function would hand out what its own gradient needs
            results = passes[0](*tensors)
        return tuple(results), lambda gradient, *_: passes[1](gradient, *tensors)

    return forward(*tensors)
