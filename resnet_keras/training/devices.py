"""Which devices a run uses, on one machine or several, and whether XLA compiles its step."""

import functools
import json
import os
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from resnet_keras.config.train import TrainConfig
from resnet_keras.errors import UsageError, reason


def make_strategy(name: str) -> tf.distribute.Strategy:
    """The strategy of a config: one device, or a copy of the network on each.

    Workers of several machines find each other by TF_CONFIG, and only where nothing has run on TensorFlow before.

    Args:
        name: "none"; "mirrored" over all GPUs, or over all logical CPUs where there is no GPU; "multiworker" over the
            devices of all workers that TF_CONFIG names; "tpu" (written from the documentation, never run); "auto",
            which is multiworker where TF_CONFIG names two workers or more, and mirrored where there are two GPUs.

    Raises:
        UsageError: for a TF_CONFIG that names no workers, or no TPU.
    """
    if name == "multiworker" or (name == "auto" and len(workers_of(os.environ.get("TF_CONFIG", ""))) > 1):
        return _multiworker(os.environ.get("TF_CONFIG", ""))
    if name == "tpu":
        return _tpu()
    gpus = tf.config.list_logical_devices("GPU")
    if name == "none" or (name == "auto" and len(gpus) < 2):
        return tf.distribute.get_strategy()
    devices = gpus or tf.config.list_logical_devices("CPU")
    return _mirrored(tuple(device.name for device in devices))


def workers_of(tf_config: str) -> list[tuple[str, int]]:
    """The workers of a TF_CONFIG, the chief first, as (type, index). Raises `UsageError` for a wrong one."""
    if not tf_config:
        return []
    try:
        return _workers_in(json.loads(tf_config)["cluster"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(
            f'TF_CONFIG is not like {{"cluster": {{"worker": ["host1:12345", "host2:12345"]}}, "task": {{"type": '
            f'"worker", "index": 0}}}}: {reason(error)}'
        ) from error


def _workers_in(cluster: Mapping[str, list[str]]) -> list[tuple[str, int]]:
    return [(kind, i) for kind in ("chief", "worker") for i in range(len(cluster.get(kind, [])))]


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    # One a process: a second strategy would number its collective operations like the first, and clash with them.
    return tf.distribute.MirroredStrategy(devices)


@functools.cache
def _multiworker(tf_config: str) -> tf.distribute.Strategy:
    workers = workers_of(tf_config)
    if not workers:
        raise UsageError("strategy multiworker needs TF_CONFIG, which names the workers; or use --strategy mirrored")
    task: Any = json.loads(tf_config).get("task", {})
    own = (task.get("type"), task.get("index")) if isinstance(task, dict) else None
    if own not in workers:
        raise UsageError(f"the task of TF_CONFIG, {own}, is not among its workers: {workers}")
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise UsageError(
            f"strategy multiworker must come before anything else in a process: {reason(error)}"
        ) from error
    except tf.errors.OpError as error:
        raise UsageError(f"the workers of TF_CONFIG cannot be reached: {reason(error)}") from error


@functools.cache
def _tpu() -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=os.environ.get("TPU_NAME", ""))
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError) as error:
        raise UsageError(f"strategy tpu: no TPU can be reached: {reason(error)}; name it in TPU_NAME") from error
    return tf.distribute.TPUStrategy(resolver)


def host_of(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """The index of this host and the number of hosts. Host 0 writes the files."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 0, 1
    resolver = strategy.cluster_resolver
    workers = _workers_in(resolver.cluster_spec().as_dict())
    return workers.index((resolver.task_type, resolver.task_id)), len(workers)


def use_xla(config: TrainConfig, strategy: tf.distribute.Strategy) -> bool:
    """Whether XLA compiles the pure functions of the step. Raises `UsageError` if it cannot.

    TPUs compile the whole step by themselves.
    """
    if isinstance(strategy, tf.distribute.TPUStrategy):
        return False
    meets = strategy.num_replicas_in_sync > 1 and config.model_options.get("norm") == "sync_batch"
    if config.xla == "on" and meets:
        raise UsageError("xla on cannot compile norm sync_batch, in which replicas meet; use norm batch, or --xla off")
    return config.xla == "on" or (config.xla == "auto" and bool(tf.config.list_logical_devices("GPU")) and not meets)


def describe(strategy: tf.distribute.Strategy) -> str:
    """The devices as text, such as "1 CPU" or "MirroredStrategy on 2 GPUs"."""
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    count, hosts = strategy.num_replicas_in_sync, host_of(strategy)[1]
    if isinstance(strategy, tf.distribute.TPUStrategy):
        kind = "TPU core"
    if count == 1 and hosts == 1:
        return f"1 {kind}"
    return f"{type(strategy).__name__} on {count} {kind}s{f' of {hosts} hosts' if hosts > 1 else ''}"
