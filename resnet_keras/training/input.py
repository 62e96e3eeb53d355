"""The batches of a run, for each device: every host makes its own part, nothing is sent between hosts."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import cancellation  # pyright: ignore[reportMissingImports]

from resnet_keras.config.train import TrainConfig
from resnet_keras.data.format import ImageFormat
from resnet_keras.data.pipeline import training_batches
from resnet_keras.data.splits import ArraySplit, FileSplit, Source, inverse_frequency
from resnet_keras.errors import HostLost, UsageError, unknown
from resnet_keras.training.devices import describe

BATCH_PATIENCE = 120.0
"""Seconds that a step waits for the data service."""
GROWING = tf.data.experimental.service.ShardingPolicy.DYNAMIC


def check_batch(config: TrainConfig, strategy: tf.distribute.Strategy) -> None:
    """Raise `UsageError` if a batch cannot be divided evenly."""
    parts = strategy.num_replicas_in_sync * config.accumulation
    if config.batch_size % parts:
        each = f", in {config.accumulation} parts each" if config.accumulation > 1 else ""
        raise UsageError(f"batch_size {config.batch_size} cannot be divided over {describe(strategy)}{each}")


def steps_of(
    config: TrainConfig,
    source: Source,
    shape: ImageFormat,
    strategy: tf.distribute.Strategy,
    first_step: int,
    last_step: int,
) -> Iterator[Any]:
    """The batches of steps `first_step` to `last_step` (exclusive), for `strategy.run`."""

    def host_batches(shard: tuple[int, int]) -> tf.data.Dataset:
        dataset = training_batches(
            source,
            shape,
            config.augmentation,
            batch_size=config.batch_size,
            seed=config.seed,
            first_step=first_step,
            last_step=last_step,
            label_smoothing=config.label_smoothing,
            shard=shard,
        )
        if config.data_service:
            dataset = dataset.apply(
                tf.data.experimental.service.distribute(processing_mode=GROWING, service=config.data_service)
            )
            # Batches that were on a worker that died never come: others stand in for them.
            dataset = dataset.repeat().prefetch(tf.data.AUTOTUNE)
        return dataset

    def replica_batches(context: tf.distribute.InputContext) -> tf.data.Dataset:
        hosts = context.num_input_pipelines
        replicas = context.num_replicas_in_sync // hosts
        dataset = host_batches((context.input_pipeline_id, hosts))
        if replicas > 1:
            dataset = dataset.flat_map(
                lambda *tensors: tf.data.Dataset.from_tensor_slices(
                    tuple(tf.reshape(t, [replicas, t.shape[0] // replicas, *t.shape[1:]]) for t in tensors)
                )
            ).prefetch(replicas)
        # Workers ask each other before each step whether all have a batch, unless there is no end.
        return dataset.repeat() if hosts > 1 else dataset

    if strategy.num_replicas_in_sync == 1:
        return iter(host_batches((0, 1)))
    return iter(strategy.distribute_datasets_from_function(replica_batches))


@contextlib.contextmanager
def no_wait_for_ever(config: TrainConfig, steps: int) -> Iterator[None]:
    """Within it `steps` steps run: where the data service sends no batch for them, they are given up.

    Its client waits without end for what a worker has that has gone.

    Raises:
        HostLost: they took longer than `BATCH_PATIENCE` each.
    """
    if not config.data_service:
        yield
        return
    manager = cancellation.CancellationManager()
    seconds = BATCH_PATIENCE * steps
    timer = threading.Timer(seconds, manager.start_cancel)
    timer.daemon = True
    timer.start()
    try:
        with cancellation.CancellationManagerContext(manager):
            yield
    except tf.errors.OpError as error:
        if not manager.is_cancelled:
            raise
        raise HostLost(
            f"no batch has come from the data service {config.data_service} for {seconds:.0f} s: start those of its "
            "workers again that have gone, then the same command: the run resumes from its last checkpoint"
        ) from error
    finally:
        timer.cancel()


def class_weights_of(config: TrainConfig, source: Source) -> list[float] | None:
    """The factor of the loss of each class; None where all are alike.

    Raises:
        UsageError: a weight of a class that the data do not have, or balanced weights of data that are streamed.
    """
    weights = config.class_weights
    if isinstance(weights, dict):
        if strange := [label for label in weights if label not in source.labels]:
            raise unknown(f"class in class_weights, for {source.name},", strange[0], source.labels)
        return [float(weights.get(label, 1.0)) for label in source.labels] if weights else None
    if weights == "none":
        return None
    if not isinstance(source.train, ArraySplit | FileSplit):
        raise UsageError(
            f"class_weights balanced must count the classes first, and {source.name} is streamed; use none"
        )
    return inverse_frequency(np.bincount(source.train.targets, minlength=len(source.labels)))
