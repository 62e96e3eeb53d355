"""SGD and LAMB as pure functions of tensors, and the parameter groups: weight decay and rate of each weight."""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import tensorflow as tf

from resnet_keras.config.train import Optimizer
from resnet_keras.errors import unknown

OptimizerState = tuple[tf.Tensor, ...]
"""What an optimizer keeps of one weight, in the order of its `state_names`."""


class OptimizerStep(Protocol):
    """How one weight changes. Everything is a float32 tensor of the weight's shape; `rate` and `step` are scalars."""

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the tensors of the optimizer state of a weight; all start at zero."""
        ...

    def __call__(
        self,
        weight: tf.Tensor,
        gradient: tf.Tensor,
        state: OptimizerState,
        rate: tf.Tensor,
        decay: float,
        step: tf.Tensor,
    ) -> tuple[tf.Tensor, OptimizerState]:
        """The weight and its optimizer state after a step; `step` counts from 0."""
        ...


@dataclass(frozen=True)
class SGD:
    """`v = momentum v + g + decay w; w -= rate v`, or with Nesterov's look ahead, both as torch has them."""

    momentum: float
    nesterov: bool
    state_names = ("velocity",)

    def __call__(
        self,
        weight: tf.Tensor,
        gradient: tf.Tensor,
        state: OptimizerState,
        rate: tf.Tensor,
        decay: float,
        step: tf.Tensor,
    ) -> tuple[tf.Tensor, OptimizerState]:
        if decay:
            gradient += decay * weight
        velocity = self.momentum * state[0] + gradient
        return weight - rate * (gradient + self.momentum * velocity if self.nesterov else velocity), (velocity,)


@dataclass(frozen=True)
class LAMB:
    """Adam's step and the decay, as long as the weight itself (You et al. 2019, algorithm 2).

    A weight that does not decay takes Adam's step as it is: to scale biases and norms by their own length stops those
    that start at zero.
    """

    beta1: float
    beta2: float
    epsilon: float = 1e-6
    state_names = ("mean", "square")

    def __call__(
        self,
        weight: tf.Tensor,
        gradient: tf.Tensor,
        state: OptimizerState,
        rate: tf.Tensor,
        decay: float,
        step: tf.Tensor,
    ) -> tuple[tf.Tensor, OptimizerState]:
        count = tf.cast(step + 1, tf.float32)
        mean = self.beta1 * state[0] + (1 - self.beta1) * gradient
        square = self.beta2 * state[1] + (1 - self.beta2) * gradient**2
        deviation = tf.sqrt(square / (1 - tf.pow(self.beta2, count))) + self.epsilon
        change = mean / (1 - tf.pow(self.beta1, count)) / deviation
        if decay:
            change += decay * weight
            length, own = tf.norm(weight), tf.norm(change)
            rate *= tf.where((length > 0) & (own > 0), length / tf.where(own > 0, own, 1.0), 1.0)
        return weight - rate * change, (mean, square)


def make_optimizer(config: Optimizer) -> OptimizerStep:
    """The optimizer of a config."""
    if config.algorithm == "lamb":
        return LAMB(config.momentum, config.beta2)
    return SGD(config.momentum, config.nesterov)


@dataclass(frozen=True)
class ParameterGroup:
    """The settings of the optimizer for one weight."""

    decay: float
    """Weight decay."""
    rate: float
    """Factor of the learning rate."""


def parameter_groups(config: Optimizer, weights: Sequence[Any]) -> list[ParameterGroup]:
    """The parameter group of each of a model's weights, in the model's order.

    Only tensors of two dimensions or more decay: kernels, never biases, gammas and betas.

    Raises:
        UsageError: a pattern of `no_decay` matches no layer.
    """
    # A variable's path starts with the name of its layer, and the layers are in the model's order.
    layers = [weight.path.split("/")[0] for weight in weights]
    for pattern in config.no_decay:
        if not fnmatch.filter(layers, pattern):
            raise unknown("layer in no_decay", pattern, dict.fromkeys(layers))
    depth = {layer: i for i, layer in enumerate(dict.fromkeys(layers))}
    return [
        ParameterGroup(
            decay=config.weight_decay
            if len(weight.shape) > 1 and not any(fnmatch.fnmatch(layer, pattern) for pattern in config.no_decay)
            else 0.0,
            rate=config.layer_decay ** (len(depth) - 1 - depth[layer]),
        )
        for layer, weight in zip(layers, weights, strict=True)
    ]
