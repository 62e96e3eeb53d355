"""The optimizers of a run: SGD and LAMB as the papers have them, the others as Keras has them."""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from resnet_keras.config.train import Optimizer
from resnet_keras.errors import unknown
from resnet_keras.models.tokens import NOT_DECAYED
from resnet_keras.training.schedule import RunSchedule


@keras.saving.register_keras_serializable("resnet_keras")
class SGD(keras.optimizers.Optimizer):
    """`v = momentum v + g + decay w; w -= rate v`, or with Nesterov's look ahead, both as torch has them.

    Keras's SGD has the rate inside `v`, and a decay that is decoupled.
    """

    def __init__(
        self,
        learning_rate: Any = 0.1,
        momentum: float = 0.9,
        nesterov: bool = True,
        coupled_decay: float = 0.0,
        name: str = "sgd",
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, name=name, **options)
        self.momentum, self.nesterov, self.coupled_decay = momentum, nesterov, coupled_decay

    def build(self: Any, variables: Sequence[Any]) -> None:
        if not self.built:
            super().build(variables)
            self.velocities = self.add_optimizer_variables(variables, "velocity")

    def update_step(self: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
        kept = self.velocities[self._get_variable_index(variable)]
        weight, rate = tf.convert_to_tensor(variable), tf.cast(learning_rate, variable.dtype)
        if self.coupled_decay and self._use_weight_decay(variable):
            gradient += self.coupled_decay * weight
        velocity = tf.convert_to_tensor(kept)
        if isinstance(self._learning_rate, RunSchedule) and self._learning_rate.schedule.reset_momentum:
            resets = self._learning_rate.resets_momentum(tf.convert_to_tensor(self.iterations))
            velocity = tf.where(resets, tf.zeros_like(velocity), velocity)
        velocity = self.momentum * velocity + gradient
        self.assign(kept, velocity)
        self.assign(variable, weight - rate * (gradient + self.momentum * velocity if self.nesterov else velocity))

    def get_config(self: Any) -> dict[str, Any]:
        own = ("momentum", "nesterov", "coupled_decay")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


@keras.saving.register_keras_serializable("resnet_keras")
class LAMB(keras.optimizers.Optimizer):
    """Adam's step and the decay, as long as the weight itself (You et al. 2019, algorithm 2).

    A weight that does not decay takes Adam's step as it is: to scale biases and norms by their own length stops those
    that start at zero.
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
        coupled_decay: float = 0.0,
        name: str = "lamb",
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, name=name, **options)
        self.beta_1, self.beta_2, self.epsilon, self.coupled_decay = beta_1, beta_2, epsilon, coupled_decay

    def build(self: Any, variables: Sequence[Any]) -> None:
        if not self.built:
            super().build(variables)
            self.means, self.squares = (self.add_optimizer_variables(variables, name) for name in ("mean", "square"))

    def update_step(self: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
        kept = [tensors[self._get_variable_index(variable)] for tensors in (self.means, self.squares)]
        weight, rate = tf.convert_to_tensor(variable), tf.cast(learning_rate, variable.dtype)
        count = tf.cast(tf.convert_to_tensor(self.iterations) + 1, tf.float32)
        mean, square = (tf.convert_to_tensor(tensor) for tensor in kept)
        mean = self.beta_1 * mean + (1 - self.beta_1) * gradient
        square = self.beta_2 * square + (1 - self.beta_2) * gradient**2
        deviation = tf.sqrt(square / (1 - tf.pow(self.beta_2, count))) + self.epsilon
        change = mean / (1 - tf.pow(self.beta_1, count)) / deviation
        if self.coupled_decay and self._use_weight_decay(variable):
            change += self.coupled_decay * weight
            length, own = tf.norm(weight), tf.norm(change)
            rate *= tf.where((length > 0) & (own > 0), length / tf.where(own > 0, own, 1.0), 1.0)
        for tensor, value in zip(kept, (mean, square), strict=True):
            self.assign(tensor, value)
        self.assign(variable, weight - rate * change)

    def get_config(self: Any) -> dict[str, Any]:
        own = ("beta_1", "beta_2", "epsilon", "coupled_decay")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


def make_optimizer(config: Optimizer, learning_rate: Any, weights: Sequence[Any]) -> keras.optimizers.Optimizer:
    """The optimizer of a config, built for a model's weights.

    Args:
        config: its settings.
        learning_rate: a number, or a schedule of Keras.
        weights: that it moves, in the model's order.

    Raises:
        UsageError: a pattern of `no_decay` matches no layer.
    """
    decay, first, second = config.weight_decay, config.momentum, config.beta2
    betas = {"beta_1": first, "beta_2": second}
    epsilon: Any = {"epsilon": config.epsilon} if config.epsilon else {}
    kept = [w for w, group in zip(weights, parameter_groups(config, weights), strict=True) if not group.decay]
    made: Any
    match config.algorithm:
        case "sgd":
            made = SGD(learning_rate, first, config.nesterov, decay)
        case "lamb":
            made = LAMB(learning_rate, first, second, coupled_decay=decay, **epsilon)
        case "adam":
            made = keras.optimizers.Adam(learning_rate, weight_decay=decay or None, **betas, **epsilon)
        case "adamw":
            made = keras.optimizers.AdamW(learning_rate, weight_decay=decay, **betas, **epsilon)
        case "lion":
            made = keras.optimizers.Lion(learning_rate, weight_decay=decay, **betas)
        case "rmsprop":
            made = keras.optimizers.RMSprop(learning_rate, rho=second, momentum=first, weight_decay=decay, **epsilon)
        case "muon":
            made = keras.optimizers.Muon(
                learning_rate,
                adam_beta_1=first,
                adam_beta_2=second,
                adam_weight_decay=decay,
                weight_decay=decay,
                momentum=first,
                nesterov=config.nesterov,
                **epsilon,
            )
    made.exclude_from_weight_decay(var_list=kept)
    made.build(list(weights))
    return made


def built_optimizer(optimizer: keras.optimizers.Optimizer, weights: Sequence[Any]) -> keras.optimizers.Optimizer:
    """An optimizer of the user's own, built for a model's weights: itself, or a new one of the same config.

    A new one where it is built for others, or made outside of the strategy whose scope is this one's. A run scales the
    loss by itself, so of a `LossScaleOptimizer` it takes the inner one.
    """
    made: Any = optimizer
    while isinstance(made, keras.optimizers.LossScaleOptimizer):
        made = made.inner_optimizer
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if made.built or replicas > 1:
        made = type(made).from_config(made.get_config())
    made.build(list(weights))
    return made


@dataclass(frozen=True)
class ParameterGroup:
    """The settings of the optimizer for one weight."""

    decay: float
    """Weight decay."""
    rate: float
    """Factor of the learning rate."""


def parameter_groups(config: Optimizer, weights: Sequence[Any]) -> list[ParameterGroup]:
    """The parameter group of each of a model's weights, in the model's order.

    Which decay is `config.decayed`; kernels are the tensors of two dimensions or more, but for the class token and the
    positions of a ViT (DeiT III's code, models_v2.py, `no_weight_decay`).

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
            if _decays(config, weight) and not any(fnmatch.fnmatch(layer, pattern) for pattern in config.no_decay)
            else 0.0,
            rate=config.layer_decay ** (len(depth) - 1 - depth[layer]),
        )
        for layer, weight in zip(layers, weights, strict=True)
    ]


def _decays(config: Optimizer, weight: Any) -> bool:
    bias = weight.path.endswith("/bias")
    kernel = len(weight.shape) > 1 and weight.path.split("/")[-1] not in NOT_DECAYED
    return config.decayed == "all" or kernel or (config.decayed == "biases" and bias)


def rates_of(config: Optimizer, weights: Sequence[Any]) -> dict[str, float]:
    """The factor of the learning rate of each weight that has one, by its path."""
    groups = parameter_groups(config, weights)
    return {weight.path: group.rate for weight, group in zip(weights, groups, strict=True) if group.rate != 1}
