"""batch_stats as true averages over training images, instead of the running averages of the last steps.

The authors of ResNet computed theirs so (the note on batch norm in their released models).
"""

from typing import Any

import keras
import tensorflow as tf

from resnet_keras.models.layers import leaves
from resnet_keras.models.replicas import local_copy
from resnet_keras.progress import counted
from resnet_keras.training.phases import phases_of, view_of_size
from resnet_keras.training.setup import TrainingSetup
from resnet_keras.training.state import per_replica


def recompute_batch_stats(setup: TrainingSetup) -> None:
    """Set each batch norm's mean and variance to those of `precise_bn` training images or more, in training mode.

    Frozen norms keep theirs. The images are those that would follow the last step.
    """
    config, state, strategy = setup.config, setup.state, setup.strategy
    phase = phases_of(config)[-1]
    trained = view_of_size(setup.trained, phase.size)
    count = min(-(-config.precise_bn // config.batch_size), setup.steps_per_epoch)
    batches = setup.batches(phase, setup.total_steps, setup.total_steps + count)
    norms = [
        layer for _, layer in leaves(trained) if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]
    with strategy.scope():
        sums = [
            [per_replica(tf.zeros(layer.moving_mean.shape), tf.VariableAggregation.MEAN) for _ in range(2)]
            for layer in norms
        ]

    def add(images: tf.Tensor, labels: tf.Tensor) -> None:
        # From zero, a running average takes (1 - momentum) of what it sees.
        zeros = [(v, tf.zeros(v.shape)) for layer in norms for v in (layer.moving_mean, layer.moving_variance)]
        cleared = {id(v) for v, _ in zeros}
        rest = [(v, tf.convert_to_tensor(local_copy(v))) for v in state.variables if id(v) not in cleared]
        seeds = [(v, tf.convert_to_tensor(v.value)) for v in state.seeds]
        with keras.StatelessScope([*zeros, *rest, *seeds]) as scope:
            trained(images, training=True)
        for layer, (mean_sum, square_sum) in zip(norms, sums, strict=True):
            mean, variance = (
                tf.convert_to_tensor(scope.get_current_value(v)) / (1 - layer.momentum)
                for v in (layer.moving_mean, layer.moving_variance)
            )
            local_copy(mean_sum).assign_add(mean)
            local_copy(square_sum).assign_add(variance + mean**2)

    def finish() -> None:
        for layer, own in zip(norms, sums, strict=True):
            totals: list[Any] = [local_copy(v).read_value() / count for v in own]
            mean, square = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, totals)
            local_copy(layer.moving_mean).assign(mean)
            local_copy(layer.moving_variance).assign(square - mean**2)

    one = tf.function(lambda iterator: strategy.run(add, args=next(iterator)), autograph=False)
    for _ in counted(range(count), "measuring batch statistics", count, "batches"):
        one(batches)
    tf.function(lambda: strategy.run(finish), autograph=False)()
