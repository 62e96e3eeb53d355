"""SGD and LAMB as pure functions of tensors, which weights decay and how fast each learns, and the rate along a run."""

import fnmatch
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import tensorflow as tf

from resnet_keras.config.train import Optimizer, Schedule
from resnet_keras.errors import unknown

Slots = tuple[tf.Tensor, ...]


class Rule(Protocol):
    """How one weight changes. Everything is a float32 tensor of the weight's shape; `rate` and `step` are scalars."""

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of what the rule remembers of each weight; all start at zero."""
        ...

    def __call__(
        self, weight: tf.Tensor, gradient: tf.Tensor, slots: Slots, rate: tf.Tensor, decay: float, step: tf.Tensor
    ) -> tuple[tf.Tensor, Slots]:
        """The weight and its slots after a step; `step` counts from 0."""
        ...


@dataclass(frozen=True)
class SGD:
    """`v = momentum v + g + decay w; w -= rate v`, or with Nesterov's look ahead, both as torch has them."""

    momentum: float
    nesterov: bool
    slots = ("velocity",)

    def __call__(
        self, weight: tf.Tensor, gradient: tf.Tensor, slots: Slots, rate: tf.Tensor, decay: float, step: tf.Tensor
    ) -> tuple[tf.Tensor, Slots]:
        if decay:
            gradient += decay * weight
        velocity = self.momentum * slots[0] + gradient
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
    slots = ("mean", "square")

    def __call__(
        self, weight: tf.Tensor, gradient: tf.Tensor, slots: Slots, rate: tf.Tensor, decay: float, step: tf.Tensor
    ) -> tuple[tf.Tensor, Slots]:
        count = tf.cast(step + 1, tf.float32)
        mean = self.beta1 * slots[0] + (1 - self.beta1) * gradient
        square = self.beta2 * slots[1] + (1 - self.beta2) * gradient**2
        deviation = tf.sqrt(square / (1 - tf.pow(self.beta2, count))) + self.epsilon
        change = mean / (1 - tf.pow(self.beta1, count)) / deviation
        if decay:
            change += decay * weight
            length, own = tf.norm(weight), tf.norm(change)
            rate *= tf.where((length > 0) & (own > 0), length / tf.where(own > 0, own, 1.0), 1.0)
        return weight - rate * change, (mean, square)


def rule_for(config: Optimizer) -> Rule:
    """The rule that a config names."""
    if config.algorithm == "lamb":
        return LAMB(config.momentum, config.beta2)
    return SGD(config.momentum, config.nesterov)


@dataclass(frozen=True)
class Share:
    """What one weight has of the optimizer's settings."""

    decay: float
    rate: float
    """Times the learning rate."""


def shares(config: Optimizer, weights: Sequence[Any]) -> list[Share]:
    """Decay and rate of each of a model's weights, in the model's order.

    Only tensors of two dimensions or more decay: kernels, never biases, gammas and betas.

    Raises:
        UsageError: where a pattern of `no_decay` names no layer.
    """
    # A variable's path starts with the name of its layer, and the layers are in the model's order.
    layers = [weight.path.split("/")[0] for weight in weights]
    for pattern in config.no_decay:
        if not fnmatch.filter(layers, pattern):
            raise unknown("layer in no_decay", pattern, dict.fromkeys(layers))
    depth = {layer: i for i, layer in enumerate(dict.fromkeys(layers))}
    return [
        Share(
            decay=config.weight_decay
            if len(weight.shape) > 1 and not any(fnmatch.fnmatch(layer, pattern) for pattern in config.no_decay)
            else 0.0,
            rate=config.layer_decay ** (len(depth) - 1 - depth[layer]),
        )
        for layer, weight in zip(layers, weights, strict=True)
    ]


def rate_at(step: Any, peak: float, schedule: Schedule, total_steps: int) -> tf.Tensor:
    """The learning rate of a step, counted from 0, of a run of `total_steps`: `peak` times the schedule's factor."""
    progress = tf.cast(step, tf.float32) / total_steps
    factor = tf.constant(1.0)
    if schedule.decay == "step":
        for milestone in schedule.milestones:
            factor = tf.where(progress >= milestone, factor * schedule.factor, factor)
    elif schedule.decay != "constant":
        left = 1 - tf.clip_by_value((progress - schedule.warmup) / (1 - schedule.warmup), 0.0, 1.0)
        if schedule.decay == "cosine":
            factor = (1 - tf.cos(math.pi * left)) / 2
        else:
            factor = left**schedule.power if schedule.decay == "poly" else left
        factor = schedule.floor + (1 - schedule.floor) * factor
    if schedule.warmup:
        start = schedule.warmup_from
        if schedule.warmup_shape == "constant":
            rising = tf.constant(start)
        else:
            # The first step already moves: (step + 1) of the warm-up's steps.
            climbed = (progress + 1 / total_steps) / schedule.warmup
            rising = start + (1 - start) * tf.minimum(climbed, 1.0)
        factor = tf.where(progress < schedule.warmup, rising, factor)
    return peak * factor
