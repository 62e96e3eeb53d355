"""Which devices a run uses, and whether XLA compiles it."""

import functools

import tensorflow as tf

from resnet_keras.config import TrainConfig
from resnet_keras.errors import UsageError


def make_strategy(name: str) -> tf.distribute.Strategy:
    """The strategy of a config: one device, or a copy of the network on each.

    Args:
        name: "none"; "mirrored" over all GPUs, or over all logical CPUs where there is no GPU; "auto", which is
            mirrored where there are two GPUs or more.
    """
    gpus = tf.config.list_logical_devices("GPU")
    if name == "none" or (name == "auto" and len(gpus) < 2):
        return tf.distribute.get_strategy()
    devices = gpus or tf.config.list_logical_devices("CPU")
    return _mirrored(tuple(device.name for device in devices))


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    # One a process: a second strategy would number its collective operations like the first, and clash with them.
    return tf.distribute.MirroredStrategy(devices)


def use_xla(config: TrainConfig, strategy: tf.distribute.Strategy) -> bool:
    """Whether Keras compiles the step with XLA. Raises `UsageError` where that cannot work."""
    several = strategy.num_replicas_in_sync > 1
    if config.xla == "on" and several:
        raise UsageError("xla on does not work under MirroredStrategy yet (keras#19005); use --xla off or auto")
    on_gpu = bool(tf.config.list_logical_devices("GPU"))
    return config.xla == "on" or (config.xla == "auto" and on_gpu and not several)


def describe(strategy: tf.distribute.Strategy) -> str:
    """The devices in words, such as "1 CPU" or "MirroredStrategy on 2 GPUs"."""
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    count = strategy.num_replicas_in_sync
    return f"1 {kind}" if count == 1 else f"MirroredStrategy on {count} {kind}s"
