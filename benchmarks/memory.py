"""Peak memory of training steps, blocks kept against blocks computed again: a process each, for peaks never fall.

Command: python -m benchmarks.memory [--model NAME] [--batch N]. Prints the resident peak of each and the ratio; what a
process holds before its first step is taken off.
"""

import resource
import subprocess
import sys
import time
from dataclasses import dataclass

import tyro


@dataclass
class Arguments:
    """Measure one network's training steps."""

    model: str = "cifar_resnet110"
    batch: int = 128
    steps: int = 3
    rematerialize: bool = True
    one: bool = False
    """Measure in this process, one way, and print it."""


def measure(arguments: Arguments) -> None:
    import resnet_keras as rk  # noqa: I001  (first: it keeps TensorFlow's start-up messages to itself)
    import keras
    import numpy as np
    import tensorflow as tf

    from resnet_keras.config.train import TrainConfig
    from resnet_keras.models.layers import Recomputable
    from resnet_keras.training.state import TrainingState
    from resnet_keras.training.step import Step

    keras.utils.set_random_seed(0)
    network = rk.create_model(arguments.model)
    for layer in network.layers:
        if isinstance(layer, Recomputable):
            layer.rematerialize = arguments.rematerialize
    config = TrainConfig(batch_size=arguments.batch)
    state = TrainingState(network, config, tf.distribute.get_strategy(), 100)
    logits = keras.Model(network.input, network.get_layer("logits").output)
    run = Step(logits, state, config).runner()
    rng = np.random.default_rng(0)
    images = rng.normal(size=(arguments.batch, *network.input_shape[1:])).astype("float32")
    labels = np.eye(network.output_shape[-1], dtype="float32")[np.arange(arguments.batch) % network.output_shape[-1]]
    batches = iter(tf.data.Dataset.from_tensors((images, labels)).repeat())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    run(batches, tf.constant(arguments.steps))
    loss, _, count = state.read_totals()
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{(peak - before) / 1024:.0f} MiB {seconds:.0f} s loss {loss / count:.4f}")


def main(arguments: Arguments) -> None:
    if arguments.one:
        measure(arguments)
        return
    peaks = []
    for flag in ("--no-rematerialize", "--rematerialize"):
        words = ["--model", arguments.model, "--batch", str(arguments.batch), "--steps", str(arguments.steps), flag]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.memory", *words, "--one"], capture_output=True, text=True, check=True
        )
        peaks.append(float(done.stdout.split()[0]))
        print(f"{arguments.model}, batch {arguments.batch}, {flag[2:]}: {done.stdout.strip()}", flush=True)
    print(f"ratio of the peaks {peaks[1] / peaks[0]:.2f}")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
