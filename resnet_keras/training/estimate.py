"""What a run will take, by some steps of it: for `--dry-run`, and the epochs that fit into a budget."""

import dataclasses
import resource
import time
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from resnet_keras.config.duration import seconds_of
from resnet_keras.config.train import GIVEN, TrainConfig
from resnet_keras.data.pipeline import evaluation_batches
from resnet_keras.data.splits import Source
from resnet_keras.errors import UsageError
from resnet_keras.progress import progress
from resnet_keras.training.devices import host_of
from resnet_keras.training.phases import phases_of, view_of_size
from resnet_keras.training.plan import MOST_EPOCHS, plan, sizes_for, usual_side
from resnet_keras.training.setup import TrainingSetup, make_setup

STEPS = 2
"""That are run at a time, after as many that are not counted."""
SECONDS = 3.0
"""For which steps are run."""
USABLE = 0.8
"""Share of a budget that is planned for: a machine may be slower later."""
ENOUGH = 12
"""Epochs that an image size must leave; a smaller one is taken instead."""


@dataclass(frozen=True)
class Estimate:
    """What a run takes, measured by some of its steps."""

    startup_seconds: float
    """To the end of the first steps: compilation, and the data that are brought to one size."""
    step_seconds: float
    evaluation_seconds: float
    """Of the images that are measured after each epoch."""
    memory_bytes: int
    """Peak of the device where it is a GPU, else of the process."""

    def epoch_seconds(self, setup: TrainingSetup) -> float:
        """Of a whole epoch, with its evaluation."""
        return setup.steps_per_epoch * self.step_seconds + self.evaluation_seconds

    def run_seconds(self, setup: TrainingSetup) -> float:
        """Of the whole run."""
        return self.startup_seconds + setup.config.epochs * self.epoch_seconds(setup)


def estimate(setup: TrainingSetup) -> Estimate:
    """Measure some steps of a run in its first phase. They train the setup's network: it is of no use afterwards."""
    with progress(f"measuring steps of {' x '.join(map(str, setup.shape.size))} pixels"):
        return _estimate(setup)


def _estimate(setup: TrainingSetup) -> Estimate:
    started = time.perf_counter()
    phase = phases_of(setup.config)[0]
    steps = setup.step.runner(view_of_size(setup.trained, phase.size))
    batches = setup.batches(phase, 0, setup.total_steps)
    count = min(STEPS, setup.total_steps)
    steps(batches, tf.constant(count))
    done, measured = count, time.perf_counter()
    startup = measured - started
    while time.perf_counter() - measured < SECONDS and done + count <= setup.total_steps:
        steps(batches, tf.constant(count))
        setup.state.read_totals(everywhere=False)  # waits for the devices
        done += count
    taken = time.perf_counter() - measured
    step_seconds = taken / (done - count) if done > count else startup / count
    return Estimate(startup, step_seconds, _evaluation_seconds(setup), _peak_memory())


def _evaluation_seconds(setup: TrainingSetup) -> float:
    """By one batch, after one that is not counted."""
    source, size = setup.source, setup.config.batch_size
    batch = next(iter(evaluation_batches(source, setup.shape, size, source.measured)))[0]
    measured = setup.measured
    forward = tf.function(lambda images: measured(images, training=False))
    forward(batch)
    started = time.perf_counter()
    forward(batch)
    return (time.perf_counter() - started) * len(source.measured) / len(batch)


def _peak_memory() -> int:
    gpus = tf.config.list_logical_devices("GPU")
    if gpus:
        return sum(tf.config.experimental.get_memory_info(gpu.name.removeprefix("/device:"))["peak"] for gpu in gpus)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def within_budget(config: TrainConfig, strategy: Any, source: Source) -> tuple[TrainConfig, str]:
    """A config with the image size and the epochs that fit into its budget, and in a line why.

    The largest size that leaves `ENOUGH` epochs is taken, or the smallest.

    Raises:
        UsageError: several hosts, a model given in Python, or a budget in which not one epoch fits.
    """
    if config.model == GIVEN or host_of(strategy)[1] > 1:
        raise UsageError("budget chooses for a config's own network on one host; give epochs instead")
    budget, started = seconds_of(config.budget) or 0.0, time.perf_counter()
    trial = dataclasses.replace(config, budget=None, epochs=1, train_sizes=(), unfreeze={}, patience=0)
    sizes = [config.image_size]
    if config.image_size is None and source.image_size is None:
        sizes = sizes_for(plan(trial, source).config, usual_side(source))
    size, epochs, found, setup = None, 0, None, None
    for size in reversed(sizes):
        setup = make_setup(dataclasses.replace(trial, image_size=size), strategy, source=source)
        found = estimate(setup)
        left = budget * USABLE - (time.perf_counter() - started) - found.startup_seconds
        epochs = min(int(left / found.epoch_seconds(setup)), MOST_EPOCHS)
        if epochs >= ENOUGH:
            break
    assert found
    assert setup
    if epochs < 1:
        raise UsageError(
            f"budget {config.budget} is too short: an epoch takes {found.epoch_seconds(setup):.0f} s after "
            f"{found.startup_seconds:.0f} s to begin; give more"
        )
    side, rate = setup.shape.size[0], config.batch_size / found.step_seconds
    reason = f"{epochs} epochs of {side}x{side} pixels fit into {config.budget}, at {rate:,.0f} images/s"
    return dataclasses.replace(config, budget=None, image_size=size, epochs=epochs), reason
