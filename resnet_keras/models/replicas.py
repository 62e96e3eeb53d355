"""A training step of Keras's own model as pure functions of tensors, which XLA can compile on each replica.

Keras's step uses the variables of a strategy inside the compiled code, and XLA refuses those of other devices
(keras#19005). Here each replica reads its copies before a pure function and writes them after it. This module imports
TensorFlow.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import keras
import tensorflow as tf

from resnet_keras.errors import UsageError
from resnet_keras.models.layers import sublayers_of
from resnet_keras.models.optimizer import PureOptimizer
from resnet_keras.models.variables import roles_of

SUM = tf.distribute.ReduceOp.SUM
SEEDS_APART = 1_000_003
"""From one replica's seed to the next one's."""


def local_copy(variable: Any) -> Any:
    """This replica's copy of a variable, inside `strategy.run`."""
    variable = getattr(variable, "value", variable) if isinstance(variable, keras.Variable) else variable
    strategy = tf.distribute.get_strategy()
    if isinstance(strategy, tf.distribute.TPUStrategy):
        return variable  # which reads and writes each core's own
    copies = strategy.experimental_local_results(variable)
    if len(copies) == 1:
        return copies[0]
    replica = tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group)
    return copies[replica % len(copies)]


def replicas_meet(model: keras.Layer, strategy: tf.distribute.Strategy) -> bool:
    """Whether replicas meet within the forward pass, in synchronised norms, which XLA cannot compile."""
    several = strategy.num_replicas_in_sync > 1
    return several and any(getattr(layer, "synchronized", False) for _, layer in sublayers_of(model))


def gradients_of(
    compute: Callable[[], tuple[Any, Any]], known: Sequence[tuple[Any, Any]], weights: Sequence[Any]
) -> tuple[list[Any], Any, keras.StatelessScope]:
    """The forward and the backward pass of a network as a pure function, which reads and writes no variable.

    Args:
        compute: the target, a scalar tensor, and any other results.
        known: all variables that it reads, each with its value.
        weights: those of the values by which the target is differentiated.

    Returns:
        The gradient of each weight, or None; the other results; and the scope, which has the new values of variables.
    """
    with (
        tf.GradientTape(watch_accessed_variables=False) as tape,
        keras.StatelessScope(known, collect_losses=True) as scope,
    ):
        tape.watch(weights)
        target, results = compute()
    gradients: Any = tape.gradient(target, weights)
    return [g if g is None else tf.convert_to_tensor(g) for g in gradients], results, scope


class ReplicaTraining:
    """`compile` and the steps of `rk.Model`."""

    _jit: bool | str = "auto"

    def compile(self, *args: Any, jit_compile: bool | str = "auto", **kwargs: Any) -> None:
        """As Keras's; `jit_compile`: True compiles by XLA on each replica, False does not, "auto" does on GPUs."""
        self._jit = jit_compile
        halves = [layer for _, layer in sublayers_of(self) if layer.dtype_policy.name == "mixed_float16"]
        if halves:  # a file does not hold the model's own policy, by which Keras scales the loss
            cast(Any, self).dtype_policy = "mixed_float16"
        # True would compile around all replicas.
        cast(Any, super()).compile(*args, jit_compile=False, **kwargs)

    def get_compile_config(self) -> dict[str, Any]:
        config = cast(Any, super()).get_compile_config()
        return {**config, "jit_compile": self._jit} if config else config

    def compile_from_config(self: Any, config: dict[str, Any]) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))
        self._build_optimizer()

    def _build_optimizer(self: Any) -> None:
        if self.optimizer is not None and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

    def _maybe_symbolic_build(self: Any, iterator: Any = None, data_batch: Any = None) -> None:
        """As Keras's, on one replica's part of the first batch; the mean of all parts fails with several workers."""
        strategy = self.distribute_strategy
        if self._distribute_strategy is not None and iterator is not None:
            _, _, batches = next(iter(iterator))
            local = strategy.experimental_local_results
            data_batch = tf.nest.map_structure(lambda part: local(part)[0], next(batches))
        cast(Any, super())._maybe_symbolic_build(data_batch=data_batch)

    def make_train_function(self: Any, force: bool = False) -> Any:
        self._build_optimizer()
        self._check_steps()
        return cast(Any, super()).make_train_function(force)

    def make_test_function(self: Any, force: bool = False) -> Any:
        self._check_steps()
        return cast(Any, super()).make_test_function(force)

    def _check_steps(self: Any) -> None:
        if self.steps_per_execution > 1 and self.distribute_strategy.num_replicas_in_sync > 1:
            raise UsageError(
                "steps_per_execution above 1 is for one replica: several cannot meet inside Keras's loop; give 1"
            )

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        return self._step().train(data)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        return self._step().test(data)

    def predict_step(self, data: Any) -> Any:
        return self._step().predict(data)

    def _step(self: Any) -> "ReplicaStep":
        return ReplicaStep(self, self._compiles())

    def _compiles(self: Any) -> bool:
        meets = replicas_meet(self, self.distribute_strategy)
        if self._jit is True and meets:
            raise UsageError("XLA cannot compile synchronised norms, in which replicas meet; give jit_compile=False")
        wanted = bool(tf.config.list_logical_devices("GPU")) if self._jit == "auto" else bool(self._jit)
        return wanted and not meets and not getattr(self, "run_eagerly", False)


class ReplicaStep:
    """The steps of a Keras model, for its `train_step`, `test_step` and `predict_step`.

    Args:
        model: compiled.
        xla: compile the pure functions.
    """

    def __init__(self, model: keras.Model, xla: bool) -> None:
        self.model, self.xla = model, xla

    def train(self, data: Any) -> dict[str, tf.Tensor]:
        """Forward, backward and update on this replica's part of a batch."""
        model = self.model
        if model.optimizer is None or not model.trainable_variables:
            raise UsageError(f"{model.name} has nothing to train: no optimizer, or no trainable weight")
        optimizer = PureOptimizer(model.optimizer)
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        count, (some_x, some_y, some_weight) = _never_empty((x, y, weight))
        trainable, rest, own = model.trainable_variables, model.non_trainable_variables, optimizer.variables
        read = [[tf.convert_to_tensor(local_copy(v)) for v in group] for group in (trainable, rest, own)]
        apart = _apart(roles_of(model).seeds)
        read[1] = [value + apart[id(v)] if id(v) in apart else value for v, value in zip(rest, read[1], strict=True)]
        moved: list[int] = []

        def backward(
            weights: list[Any], rest_values: list[Any], own_values: list[Any], x: Any, y: Any, weight: Any
        ) -> tuple[Any, Any, list[Any], list[Any]]:
            known = [*zip(trainable, weights, strict=True), *zip(rest, rest_values, strict=True)]
            known += zip(own, own_values, strict=True)

            def compute() -> tuple[Any, Any]:
                predicted = model(x, training=True)
                loss = model.compute_loss(x=x, y=y, y_pred=predicted, sample_weight=weight, training=True)
                return model.optimizer.scale_loss(loss), (loss, predicted)

            gradients, (loss, predicted), scope = gradients_of(compute, known, weights)
            after = [scope.get_current_value(v) for v in rest]
            moved[:] = [i for i, value in enumerate(after) if value is not rest_values[i]]
            return loss, predicted, gradients, [after[i] for i in moved]

        loss, predicted, gradients, states = self._compiled(backward)(*read, some_x, some_y, some_weight)
        gradients, states = self._over_replicas(count, gradients, states)
        weights, own_values = self._compiled(optimizer)(read[2], gradients, read[0])
        for variable, value in zip([*trainable, *own], [*weights, *own_values], strict=True):
            local_copy(variable).assign(value)
        for i, value in zip(moved, states, strict=True):
            local_copy(rest[i]).assign(value - apart[id(rest[i])] if id(rest[i]) in apart else value)
        return self._measured(count, loss, x, y, predicted, weight)

    def test(self, data: Any) -> dict[str, tf.Tensor]:
        """Loss and metrics of this replica's part of a batch."""
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        count, (some_x, some_y, some_weight) = _never_empty((x, y, weight))
        predicted = self.model(some_x, training=False)
        loss = self.model.compute_loss(x=some_x, y=some_y, y_pred=predicted, sample_weight=some_weight, training=False)
        return self._measured(count, loss, x, y, predicted, weight)

    def predict(self, data: Any) -> Any:
        """The outputs for this replica's part of a batch."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        count, some_x = _never_empty(x)
        return _first(count, self.model(some_x, training=False))

    def _compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return tf.function(function, jit_compile=True, autograph=False) if self.xla else function

    def _over_replicas(
        self, count: tf.Tensor, gradients: Sequence[Any], states: Sequence[Any]
    ) -> tuple[list[Any], list[Any]]:
        """The gradients of all replicas together, and what a norm keeps as their mean, by each one's images."""
        context = tf.distribute.get_replica_context()
        replicas = context.num_replicas_in_sync
        if replicas == 1:
            return list(gradients), list(states)
        own = tf.cast(count, tf.float32)
        part = own / context.all_reduce(SUM, own)
        # Keras has divided a mean loss by the number of replicas, as if each had as many images; a sum it leaves.
        is_sum = getattr(self.model.loss, "reduction", None) == "sum"
        factor = tf.cast(own > 0, tf.float32) if is_sum else part * replicas
        present = [i for i, gradient in enumerate(gradients) if gradient is not None]
        floats = [i for i, value in enumerate(states) if value.dtype.is_floating]
        sent = [gradients[i] * tf.cast(factor, gradients[i].dtype) for i in present]
        sent += [states[i] * tf.cast(part, states[i].dtype) for i in floats]
        received = context.all_reduce(SUM, sent) if sent else []
        summed, means = list(gradients), list(states)
        for i, value in zip(present, received, strict=False):
            summed[i] = value
        for i, value in zip(floats, received[len(present) :], strict=True):
            means[i] = value
        return summed, means

    def _measured(
        self, count: tf.Tensor, loss: Any, x: Any, y: Any, predicted: Any, weight: Any
    ) -> dict[str, tf.Tensor]:
        model = self.model
        replicas = tf.cast(tf.distribute.get_strategy().num_replicas_in_sync, loss.dtype)
        model._loss_tracker.update_state(loss * replicas, sample_weight=count)
        logs = model.compute_metrics(x, y, _first(count, predicted), sample_weight=weight)
        if isinstance(model.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
            # Keras takes the mean over the first axis.
            logs = tf.nest.map_structure(lambda value: tf.convert_to_tensor(value)[None], logs)
        return logs


def _never_empty(data: Any) -> tuple[tf.Tensor, Any]:
    """How many examples there are, and the examples: one of zeros where there are none, for kernels that need one."""
    first = tf.nest.flatten(data)[0]
    count = tf.shape(first)[0]
    if tf.distribute.get_strategy().num_replicas_in_sync == 1 or first.shape[0]:
        return count, data

    def one(tensor: Any) -> Any:
        if tensor is None:
            return None
        zeros = tf.zeros([1, *tf.unstack(tf.shape(tensor))[1:]], tensor.dtype)
        return tf.ensure_shape(tf.cond(count > 0, lambda: tensor, lambda: zeros), tensor.shape)

    return count, tf.nest.map_structure(one, data)


def _first(count: tf.Tensor, outputs: Any) -> Any:
    """The outputs of the examples that are there."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return outputs
    return tf.nest.map_structure(lambda tensor: tensor[:count], outputs)


def _apart(seeds: Sequence[Any]) -> dict[int, tf.Tensor]:
    """What this replica adds to each seed, so that replicas drop different things; by the id of the variable."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return {}
    own = tf.cast(context.replica_id_in_sync_group, tf.int64) * SEEDS_APART
    return {id(v): tf.cast(tf.stack([own, 0]), v.dtype) for v in seeds if tuple(v.shape) == (2,)}
