"""What a run says of itself: its first lines, and where its figures were measured."""

import platform

import keras
import tensorflow as tf

from resnet_keras.data.splits import DatasetSplit, Source
from resnet_keras.models.complexity import complexity
from resnet_keras.models.preprocessing import model_card
from resnet_keras.training.devices import describe
from resnet_keras.training.setup import TrainingSetup


def opening(setup: TrainingSetup) -> str:
    """The first lines of a run: its network, data, epochs and devices."""
    config, source, cost = setup.config, setup.source, complexity(setup.network)
    streamed = isinstance(source.train, DatasetSplit)
    card = model_card(setup.network)
    around = any(isinstance(layer, keras.Model) for layer in setup.network.layers)
    return (
        f"{setup.network.name}: {cost.trainable_parameters:,} parameters, {cost.macs / 1e6:,.1f} M multiply-adds an "
        f"image\n{source.name}: {_counts(source)} images, "
        f"{len(source.labels)} {'labels, several an image' if source.several else 'classes'}\n"
        f"{config.epochs} epochs in batches of {config.batch_size}; {describe(setup.strategy)}, {config.precision}, "
        f"XLA {'on' if setup.step.xla else 'off'}; run folder {config.run_dir}"
        + "".join(f"\ndamaged and left out: {fault}" for fault in source.skipped)
        + f"\nthe model has no card: its pixels are normalised by mean {card.mean} and std {card.std}" * around
        + "\na tf.data.Dataset has an order of its own: a run that is stopped resumes, but not to the last bit"
        * streamed
    )


def environment(setup: TrainingSetup) -> dict[str, str]:
    """Where a figure was measured: devices, versions, data."""
    data = setup.data
    return {
        "devices": describe(setup.strategy),
        "xla": "on" if setup.step.xla else "off",
        "machine": f"{platform.machine()}, {platform.system()}",
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "data": f"{_counts(setup.source)} images, digest {data['digest']}{_left_out(setup.source)}",
    }


def _counts(source: Source) -> str:
    held = f", {len(source.validation):,} validation" if source.validation else ""
    return f"{len(source.train):,} training{held} and {len(source.test):,} test"


def _left_out(source: Source) -> str:
    return f", {len(source.skipped):,} damaged left out" if source.skipped else ""
