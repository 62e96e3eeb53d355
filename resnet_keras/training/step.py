"""The training step: two pure functions of tensors, which XLA can compile on each replica, and what is between them.

A step is `gradients = backward(weights, batch)`, their mean over all replicas, `weights = update(weights, gradients)`.
Keras cannot compile a step for more than one replica: the compiled code would have to use variables of other devices
(keras#19005). Here each replica reads its variables before the compiled functions and writes them after.
"""

from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from resnet_keras.config.train import TrainConfig
from resnet_keras.models.optimizer import PureOptimizer
from resnet_keras.models.replicas import gradients_of, local_copy, replicas_meet
from resnet_keras.training.distillation import Teacher, distilled
from resnet_keras.training.state import TrainingState

MEAN = tf.distribute.ReduceOp.MEAN
fold_in = tf.random.experimental.stateless_fold_in  # pyright: ignore[reportAttributeAccessIssue]
LARGEST_LOSS_SCALE = 2.0**24
STEPS_UNTIL_LOSS_SCALE_GROWS = 2000
Tensors = list[tf.Tensor]


class Pass(NamedTuple):
    """The result of forward and backward passes."""

    gradients: Tensors
    """Of the mean loss of these images, for each trainable weight."""
    batch_stats: Tensors
    loss: tf.Tensor
    """Sum over the images."""
    correct: tf.Tensor
    """Images whose class of the highest score is that of the largest label; of several labels an image, the fraction of
    its decisions that are correct, summed over the images."""


class Step:
    """Trains a network on batches of `(images [N, H, W, C], labels float32 [N, classes])`.

    Args:
        network: ends in logits; made under the state's strategy.
        state: of the network and its optimizer.
        config: of the run.
        xla: compile the pure functions.
        class_weights: factor of the loss of each class; None for one each.
        several: an image can have several labels: binary cross-entropy, whatever the config's loss.
        loss: of each image, of logits and labels; takes the place of the config's.
        teacher: of the same classes, made under the state's strategy: the config's share of the loss is by it.
    """

    def __init__(
        self,
        network: keras.Model,
        state: TrainingState,
        config: TrainConfig,
        *,
        xla: bool = False,
        class_weights: Sequence[float] | None = None,
        several: bool = False,
        loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        self.own_loss, self.several = loss, several
        self.teacher = teacher if config.distillation_weight else None
        self.network, self.state, self.config, self.xla = network, state, config, xla
        self.optimizer = PureOptimizer(state.optimizer, state.rates, warn=False)  # a weight may be frozen for a phase
        self.class_weights = None if class_weights is None else tf.constant(class_weights, tf.float32)
        self.synchronised = replicas_meet(network, state.strategy)

    def runner(self, network: keras.Model | None = None) -> Callable[[Iterator[Any], tf.Tensor], None]:
        """A function that takes `n` steps (a scalar tensor) on the batches of an iterator.

        It trains the weights, and moves the norms, that are trainable now. `network`: another view of the same layers,
        for images of another size.
        """
        view = self.network if network is None else network
        trainable = {variable.path for variable in view.trainable_variables}
        backward = self._compiled(lambda *tensors: self.backward(view, trainable, *tensors))
        update = self._compiled(self.update)

        def replica(images: tf.Tensor, labels: tf.Tensor) -> None:
            self._replica_step(backward, update, trainable, images, labels)

        @tf.function(autograph=False)
        def run(iterator: Any, steps: tf.Tensor) -> None:
            def one(done: tf.Tensor) -> tuple[tf.Tensor]:
                self.state.strategy.run(replica, args=next(iterator))
                return (done + 1,)

            tf.while_loop(lambda done: done < steps, one, (tf.constant(0),), parallel_iterations=1)

        return run

    def losses(self, logits: tf.Tensor, labels: tf.Tensor, taught: tf.Tensor | None = None) -> tf.Tensor:
        """The loss of each image: `[N, classes]`, and `taught`, the teacher's logits, too, to `[N]`, in nats."""
        if taught is not None:
            return distilled(self.config, self.losses(logits, labels), logits, taught)
        if self.own_loss:
            return self.own_loss(logits, labels)
        if self.config.loss == "sigmoid" or self.several:
            if self.config.target_threshold:
                labels = tf.cast(labels > self.config.target_threshold, tf.float32)
            each = tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)
            if self.several:  # as of one class: the rate need not rise with the number of labels
                return tf.reduce_sum(each, axis=-1)
            return tf.reduce_mean(each if self.class_weights is None else each * self.class_weights, axis=-1)
        each = -labels * tf.nn.log_softmax(logits)
        return tf.reduce_sum(each if self.class_weights is None else each * self.class_weights, axis=-1)

    def taught(self, images: Any) -> tf.Tensor | None:
        """The teacher's logits for images; None without one."""
        return self.teacher and self.teacher.logits(tf.convert_to_tensor(images), self.teacher.values())

    def correct(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """0 or 1 of each image, `[N, classes]` twice to `[N]`; of several labels the fraction of them."""
        if self.several:
            return tf.reduce_mean(tf.cast((logits > 0) == (labels > 0.5), tf.float32), -1)
        return tf.cast(tf.argmax(logits, -1) == tf.argmax(labels, -1), tf.float32)

    def backward(
        self,
        network: keras.Model,
        trainable: Container[str],
        variables: Tensors,
        images: tf.Tensor,
        labels: tf.Tensor,
        seed: tf.Tensor,
        loss_scale: tf.Tensor,
        of_teacher: Tensors,
    ) -> Pass:
        """Forward and backward pass over one replica's part of a batch, in `accumulation` parts.

        Pure: it reads and writes no variable of the network, whose values are `variables`, nor of the teacher, whose
        values are `of_teacher`.
        """
        state, parts = self.state, self.config.accumulation
        # Slices from `part` on would have no known length, of which XLA's batch norm makes another variance.
        in_parts = [tf.reshape(tensor, [parts, -1, *tensor.shape[1:]]) for tensor in (images, labels)]
        stats = {variable.path for variable in state.batch_stats}
        places = [i for i, variable in enumerate(state.variables) if variable.path in stats]

        def of_part(part: tf.Tensor, batch_stats: Tensors) -> Pass:
            values = list(variables)
            for i, value in zip(places, batch_stats, strict=True):
                values[i] = value
            watched = [v for variable, v in zip(state.variables, values, strict=True) if variable.path in trainable]
            own_images, own_labels = (tensor[part] for tensor in in_parts)
            seeds = fold_in(seed, part)
            mapping = [*zip(state.variables, values, strict=True), *self._seeds(seeds)]
            taught = self.teacher and self.teacher.logits(own_images, of_teacher)

            def compute() -> tuple[tf.Tensor, Any]:
                logits = network(own_images, training=True)
                losses = self.losses(logits, own_labels, taught)
                penalties = tf.add_n(network.losses) if network.losses else 0.0  # of regularizers, and by `add_loss`
                return (tf.reduce_mean(losses) + penalties) * loss_scale, (logits, losses)

            gradients, (logits, losses), scope = gradients_of(compute, mapping, watched)
            correct = self.correct(logits, own_labels)
            stats = [tf.convert_to_tensor(scope.get_current_value(v)) for v in state.batch_stats]
            return Pass(gradients, stats, tf.reduce_sum(losses), tf.reduce_sum(correct))

        def add_part(part: tf.Tensor, sums: Pass) -> tuple[tf.Tensor, Pass]:
            own = of_part(part, sums.batch_stats)
            gradients = [
                total + gradient / parts for total, gradient in zip(sums.gradients, own.gradients, strict=True)
            ]
            return part + 1, Pass(gradients, own.batch_stats, sums.loss + own.loss, sums.correct + own.correct)

        stats_before = [variables[i] for i in places]
        if parts == 1:
            return of_part(tf.constant(0), stats_before)
        weights = [v for variable, v in zip(state.variables, variables, strict=True) if variable.path in trainable]
        loop = (
            tf.constant(0),
            Pass([tf.zeros_like(weight) for weight in weights], stats_before, tf.constant(0.0), tf.constant(0.0)),
        )
        if self.synchronised:
            # Replicas cannot meet inside a loop, as synchronised norms must.
            for i in range(parts):
                # One operation to wait for: each constant of a part waits for all that stand here.
                with tf.control_dependencies([tf.group(*loop[1].gradients)] if i else []):
                    loop = add_part(*loop)
        else:
            loop = tf.while_loop(lambda part, _: part < parts, add_part, loop, parallel_iterations=1)
        return loop[1]

    def update(
        self, weights: Tensors, state: Tensors, gradients: list[Any], rate_scale: tf.Tensor, norm: tf.Tensor
    ) -> tuple[Tensors, Tensors]:
        """The weights and the optimizer state after a step. Pure, and the same on every replica.

        A weight that is not trainable now has no gradient, and stays.
        """
        if clip := self.state.clip_norm:
            shrink = tf.minimum(1.0, clip / norm)
            gradients = [gradient if gradient is None else gradient * shrink for gradient in gradients]
        return self.optimizer(state, gradients, weights, rate_scale)

    def _compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return tf.function(function, jit_compile=True, autograph=False) if self.xla else function

    def _seeds(self, seed: tf.Tensor) -> list[tuple[Any, tf.Tensor]]:
        """A seed for each layer that draws numbers."""
        return [(v, tf.cast(seed + tf.constant([0, i], seed.dtype), v.dtype)) for i, v in enumerate(self.state.seeds)]

    def _replica_step(
        self,
        backward: Callable[..., Pass],
        update: Callable[..., Any],
        trainable: Container[str],
        images: tf.Tensor,
        labels: tf.Tensor,
    ) -> None:
        state, replica = self.state, tf.distribute.get_replica_context()
        mixed = self.config.precision == "mixed_float16"
        step = local_copy(state.step).read_value()
        # Each replica has its own; a step has the same whenever it is taken.
        seed = tf.stack([tf.constant(self.config.seed, tf.int64), step])
        seed = fold_in(seed, tf.cast(replica.replica_id_in_sync_group, tf.int64))
        scale = local_copy(state.loss_scale).read_value() if mixed else tf.constant(1.0)
        variables = [tf.convert_to_tensor(local_copy(variable)) for variable in state.variables]
        of_teacher = self.teacher.values() if self.teacher else []
        own = backward(variables, images, labels, seed, scale, of_teacher)
        *gradients, loss, stop = self._means(own.gradients, own.loss, local_copy(state.stop_requested).read_value())
        gradients = [gradient / scale for gradient in gradients] if mixed else gradients
        norm = tf.linalg.global_norm(gradients)
        finite = tf.math.is_finite(loss + norm) & (local_copy(state.bad_step) < 0)

        def take_step() -> tf.Tensor:
            local_weights = [local_copy(weight) for weight in state.weights]
            local_state = [local_copy(variable) for variable in self.optimizer.variables]
            left = iter(gradients)
            weights, new_state = update(
                [tf.convert_to_tensor(weight) for weight in local_weights],
                [tf.convert_to_tensor(variable) for variable in local_state],
                [next(left) if weight.path in trainable else None for weight in state.weights],
                tf.convert_to_tensor(local_copy(state.rate_scale)),
                norm,
            )
            for variable, value in zip([*local_weights, *local_state], [*weights, *new_state], strict=True):
                variable.assign(value)
            for variable, value in zip(state.batch_stats, own.batch_stats, strict=True):
                local_copy(variable).assign(value)
            self._average(step)
            count = tf.constant(images.shape[0] or 0, tf.float64)
            local_copy(state.totals).assign_add(
                [tf.cast(own.loss, tf.float64), tf.cast(own.correct, tf.float64), count]
            )
            if mixed:
                self._raise_scale()
            return tf.constant(0)

        def skip_step() -> tf.Tensor:
            bad = local_copy(state.bad_step)
            first = tf.where(bad < 0, step, bad)
            if mixed:
                local_copy(state.loss_scale).assign(scale / 2)
                local_copy(state.steps_at_scale).assign(0)
                first = tf.where(scale < 1, first, bad)  # smaller losses will not help
            bad.assign(first)
            local_copy(state.iteration).assign_add(1)  # its schedule is that of the steps
            return tf.constant(0)

        tf.cond(finite, take_step, skip_step)
        local_copy(state.stop_agreed).assign(stop)
        local_copy(state.step).assign(step + 1)

    def _means(self, gradients: list[Any], *numbers: tf.Tensor) -> list[Any]:
        """Of all replicas."""
        replica = tf.distribute.get_replica_context()
        if self.config.gradients == "float32" or replica.num_replicas_in_sync == 1:
            return replica.all_reduce(MEAN, [*gradients, *numbers])
        halves = replica.all_reduce(MEAN, [tf.cast(gradient, tf.bfloat16) for gradient in gradients])
        return [*(tf.cast(half, tf.float32) for half in halves), *replica.all_reduce(MEAN, list(numbers))]

    def _average(self, step: tf.Tensor) -> None:
        count = tf.cast(step, tf.float32)
        keep = tf.minimum(self.config.ema, (1 + count) / (10 + count))
        for variable, average in zip(self.state.variables, self.state.averages, strict=False):
            local_average = local_copy(average)
            local_average.assign_add((1 - keep) * (tf.convert_to_tensor(local_copy(variable)) - local_average))

    def _raise_scale(self) -> None:
        scale, steps = local_copy(self.state.loss_scale), local_copy(self.state.steps_at_scale)
        grow = steps + 1 >= STEPS_UNTIL_LOSS_SCALE_GROWS
        scale.assign(tf.where(grow, tf.minimum(scale * 2, LARGEST_LOSS_SCALE), scale))
        steps.assign(tf.where(grow, tf.zeros_like(steps), steps + 1))
