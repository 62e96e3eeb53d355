"""Keras's optimizers as pure functions: `stateless_apply`, which Keras has on every backend but TensorFlow's.

On TensorFlow an optimizer moves the variables of a strategy by itself, which XLA cannot compile for several replicas,
and which fails where gradients are accumulated (keras#20582). Underneath, it is as pure as on the other backends: here
Keras's own methods for these take the place of those for TensorFlow. This module imports TensorFlow.
"""

import contextlib
import warnings
from collections.abc import Mapping
from typing import Any, cast

import keras
import tensorflow as tf

_BASES = {kind.__name__: kind for kind in keras.optimizers.Optimizer.__mro__}
_TENSORFLOW, _GENERIC = _BASES["TFOptimizer"], _BASES["BaseOptimizer"]


class PureOptimizer:
    """`weights, state = pure(state, gradients, weights)`: a step of a built Keras optimizer, ours or anyone's.

    The lists are in the order of `optimizer.variables` and of the weights that it was built on. Gradients are clipped
    as they come: sum them over replicas before. Where the optimizer accumulates gradients, its average of the weights
    moves once for each update.

    Args:
        optimizer: built.
        rates: factor of the learning rate of a weight, by its path; 1 for all others.
        warn: of weights without a gradient, as Keras does.
    """

    def __init__(
        self, optimizer: keras.optimizers.Optimizer, rates: Mapping[str, float] | None = None, *, warn: bool = True
    ) -> None:
        self._optimizer, self._pure, self._warns = optimizer, _pure(optimizer, rates or {}), warn

    @property
    def variables(self) -> list[Any]:
        """The optimizer's, in its order."""
        return list(self._optimizer.variables)

    def __call__(
        self, state: list[tf.Tensor], gradients: list[Any], weights: list[tf.Tensor], rate_scale: Any = None
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """The weights and the state after a step; `rate_scale` is a factor of the learning rate."""
        self._pure.__dict__["rate_scale"] = rate_scale
        with contextlib.nullcontext() if self._warns else warnings.catch_warnings():
            if not self._warns:
                warnings.filterwarnings("ignore", "Gradients do not exist")
            weights, state = self._pure.stateless_apply(state, gradients, weights)
        return [tf.convert_to_tensor(v) for v in weights], [tf.convert_to_tensor(v) for v in state]


def _pure(optimizer: Any, rates: Mapping[str, float]) -> Any:
    """The optimizer with the same variables, whose `stateless_apply` works on TensorFlow."""
    kind = type(optimizer)
    pure = object.__new__(type(kind.__name__, (_Scaled, kind, _Generic), {}))
    pure.__dict__.update(optimizer.__dict__, rates=rates, rate_scale=None)
    # Keras's key is of the TensorFlow variable, which cannot be had where a tensor stands for it.
    pure.__dict__["keys"] = {id(v): optimizer._var_key(v) for v in optimizer._trainable_variables}
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        pure.__dict__["inner_optimizer"] = _pure(optimizer.inner_optimizer, rates)
    return pure


def _stateless_apply(self: Any, state: list[Any], gradients: list[Any], weights: list[Any]) -> tuple[list, list]:
    """Keras's own, with the two conditions of its step, which it has as statements, as functions of tensors."""
    accumulated, overwrites = self.gradient_accumulation_steps, self.ema_overwrite_frequency
    if not accumulated and not (self.use_ema and overwrites):
        return _GENERIC.stateless_apply(self, state, gradients, weights)
    places = {id(variable): i for i, variable in enumerate(self.variables)}
    state, count = [tf.convert_to_tensor(value) for value in state], places[id(self._iterations)]
    step = state[count] + 1  # of batches, of which one in `accumulated` is an update
    done = (step - 1) // (accumulated or 1)

    def update(gradients: list[Any]) -> tuple[list, list]:
        plain = object.__new__(type(self))
        plain.__dict__.update(self.__dict__, gradient_accumulation_steps=None, ema_overwrite_frequency=None)
        before = [*state[:count], done, *state[count + 1 :]]
        new_weights, new_state = _GENERIC.stateless_apply(plain, before, gradients, weights)
        new_state[count] = step
        if self.use_ema and overwrites:
            averages = [new_state[places[id(average)]] for average in self._model_variables_moving_average]
            due = (done + 1) % overwrites == 0
            new_weights = [tf.where(due, a, w) for a, w in zip(averages, new_weights, strict=True)]
        return new_weights, new_state

    if not accumulated:
        return update(gradients)
    kept = [None if variable is None else places[id(variable)] for variable in self._accumulated_gradients]
    sums = [
        gradient if gradient is None or i is None else gradient + state[i]
        for gradient, i in zip(gradients, kept, strict=True)
    ]

    def take() -> tuple[list, list]:
        new_weights, new_state = update([total if total is None else total / accumulated for total in sums])
        for i in (i for i in kept if i is not None):
            new_state[i] = tf.zeros_like(state[i])
        return [tf.convert_to_tensor(v) for v in new_weights], [tf.convert_to_tensor(v) for v in new_state]

    def keep() -> tuple[list, list]:
        new_state = [*state[:count], step, *state[count + 1 :]]
        for i, total in zip(kept, sums, strict=True):
            if i is not None and total is not None:
                new_state[i] = total
        return [tf.identity(weight) for weight in weights], [tf.identity(value) for value in new_state]

    return tf.cond(step % accumulated == 0, take, keep)


class _Scaled:
    """Stands before all others: factors of the learning rate, of a step and of single weights."""

    rates: Mapping[str, float]
    rate_scale: Any

    def _get_current_learning_rate(self: Any) -> Any:
        rate = cast(Any, super())._get_current_learning_rate()
        return rate if self.rate_scale is None else rate * self.rate_scale

    def update_step(self: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
        rate = self.rates.get(variable.path, 1.0)
        cast(Any, super()).update_step(gradient, variable, learning_rate if rate == 1 else learning_rate * rate)

    def _apply_weight_decay(self: Any, variables: Any) -> None:
        if not self.rates:
            return cast(Any, super())._apply_weight_decay(variables)
        if self.weight_decay:
            for v in variables:
                if self._use_weight_decay(v):
                    v.assign(v - v * (self.weight_decay * self.rates.get(v.path, 1.0) * self.learning_rate))
        return None


class _Generic(_TENSORFLOW):
    """Stands before Keras's class for TensorFlow, and behind all others, in the order of an optimizer's methods."""

    keys: dict[int, Any]
    assign = _GENERIC.assign
    assign_add = _GENERIC.assign_add
    assign_sub = _GENERIC.assign_sub
    _apply_weight_decay = _GENERIC._apply_weight_decay
    _backend_update_step = _GENERIC._backend_update_step
    stateless_apply = _stateless_apply

    def _var_key(self, variable: Any) -> Any:
        return self.keys[id(variable)]
