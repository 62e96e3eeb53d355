"""Which devices a run uses, on one machine or several, and whether XLA compiles its step."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.eager import context  # pyright: ignore[reportMissingImports]

from resnet_keras.config.train import OPERATIONAL, TrainConfig, flat
from resnet_keras.errors import UsageError, reason
from resnet_keras.progress import say as print_line
from resnet_keras.training.cluster import HOW, find_cluster, workers_in
from resnet_keras.training.lost import REFUSED
from resnet_keras.training.rendezvous import meet
from resnet_keras.version import __version__

_CONNECTED: dict[str, tf.distribute.Strategy] = {}
"""The strategy over several hosts, by its TF_CONFIG: a process makes one."""


def make_strategy(
    name: str, config: TrainConfig | None = None, say: Callable[[str], None] = print_line
) -> tf.distribute.Strategy:
    """The strategy of a config: one device, or a copy of the network on each.

    Several hosts find each other as `find_cluster` says, and only where nothing has run on TensorFlow before.

    Args:
        name: "none"; "mirrored" over all GPUs, or over all logical CPUs where there is no GPU; "multiworker" over the
            devices of all hosts; "tpu" (written from the documentation, never run); "auto", which is multiworker where
            TF_CONFIG names two hosts or more, and mirrored where there are two GPUs.
        config: of the run, which all hosts must have alike.
        say: gets lines about the hosts that are found, or missing.

    Raises:
        UsageError: for hosts that are not named, do not come or differ, or for no TPU.
    """
    if name == "multiworker" or (name == "auto" and _has_several_hosts()):
        return _multiworker(config, say)
    if name == "tpu":
        return _tpu()
    gpus = tf.config.list_logical_devices("GPU")
    if name == "none" or (name == "auto" and len(gpus) < 2):
        return tf.distribute.get_strategy()
    devices = gpus or tf.config.list_logical_devices("CPU")
    return _mirrored(tuple(device.name for device in devices))


def _has_several_hosts() -> bool:
    cluster = find_cluster({"TF_CONFIG": os.environ.get("TF_CONFIG", "")})
    return cluster is not None and cluster.size > 1


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    # One a process: a second strategy would number its collective operations like the first, and clash with them.
    return tf.distribute.MirroredStrategy(devices)


def _multiworker(config: TrainConfig | None, say: Callable[[str], None]) -> tf.distribute.Strategy:
    cluster = find_cluster(os.environ)
    if cluster is None:
        raise UsageError(f"strategy multiworker finds no hosts: {HOW}; or use --strategy mirrored")
    if (before := os.environ.get("TF_CONFIG", "")) in _CONNECTED:
        return _CONNECTED[before]
    say(f"host {cluster.index} of {cluster.size}, by {cluster.source}: {', '.join(cluster.hosts)}")
    hosts = meet(cluster, _facts(config), say)
    text = before or cluster.tf_config(hosts)
    os.environ["TF_CONFIG"] = text  # which TensorFlow reads
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise UsageError(
            f"strategy multiworker must come before anything else in a process: {reason(error)}"
        ) from error
    except tf.errors.OpError as error:
        raise UsageError(f"the hosts of {cluster.source} cannot be reached: {reason(error)}") from error
    return _CONNECTED.setdefault(text, strategy)


def _facts(config: TrainConfig | None) -> dict[str, Any]:
    """What must be the same on all hosts: versions, and every field of the config that changes the results."""
    versions = {"resnet-keras": __version__, "TensorFlow": tf.__version__, "Keras": keras.__version__}
    fields = {} if config is None else {name: v for name, v in flat(config).items() if name not in OPERATIONAL}
    return versions | fields


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
    workers, _ = tasks_of(strategy)
    resolver = strategy.cluster_resolver
    return workers.index((resolver.task_type, resolver.task_id)), len(workers)


def tasks_of(strategy: tf.distribute.MultiWorkerMirroredStrategy) -> tuple[list[tuple[str, int]], list[str]]:
    """The hosts of a strategy as TensorFlow names them, (type, index), host 0 first, and their addresses."""
    spec = strategy.cluster_resolver.cluster_spec().as_dict()
    workers = workers_in(spec)
    return workers, [spec[kind][i] for kind, i in workers]


@contextlib.contextmanager
def refusals_told(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Within it a `UsageError` of this host ends the others by it, too: else they see only that this one has gone."""
    try:
        yield
    except UsageError as error:
        if host_of(strategy)[1] > 1 and not isinstance(error.__cause__, tf.errors.OpError):  # which came from another
            with contextlib.suppress(tf.errors.OpError):
                context.context().report_error_to_cluster(tf.errors.ABORTED, f"{REFUSED}{error}")
        raise


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
