"""What a config costs before it is trained: parameters, multiply-adds, memory, and the latency of its servable."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.config.stored import config_from_json
from resnet_keras.config.train import TrainConfig
from resnet_keras.data.splits import Source
from resnet_keras.errors import UsageError
from resnet_keras.export.servable import export_servable
from resnet_keras.models.complexity import complexity
from resnet_keras.serving.loaded import LoadedVersion
from resnet_keras.training.setup import image_format_for, network_of, source_of

COPIES = 4
"""Numbers that training keeps for each parameter: itself, its gradient, momentum, the running average."""
MAPS = 3
"""Maps that training keeps for each that a convolution puts out: its own, the norm's, the activation's."""
RUNS = 30


@dataclass(frozen=True)
class Bounds:
    """What a trial may cost; None for anything."""

    max_parameters: int | None = None
    """Trainable ones."""
    max_macs: float | None = None
    """Multiply-adds of one image."""
    max_memory_gb: float | None = None
    """Of training, estimated: four numbers a parameter, three maps for each convolution and image, float32."""
    max_latency_ms: float | None = None
    """Of one image, by the exported model in a session on this machine."""


@dataclass(frozen=True)
class Cost:
    """What a config costs."""

    parameters: int
    macs: int
    memory_gb: float
    latency_ms: float | None = None


def count(config: TrainConfig, source: Source) -> Cost:
    """The cost of a config, but its latency: no weight of the network is allocated."""
    shape = image_format_for(config, source)
    with keras.StatelessScope():
        network = network_of(config, source, shape)
    found = complexity(network)
    numbers = COPIES * found.parameters + MAPS * found.activations * config.batch_size // config.accumulation
    return Cost(found.trainable_parameters, found.macs, round(numbers * 4 / 2**30, 3))


def refusal(cost: Cost, bounds: Bounds) -> str | None:
    """Why a config is not trained; None where nothing is against it."""
    pairs = [
        (cost.parameters, bounds.max_parameters, "parameters", "max_parameters"),
        (cost.macs, bounds.max_macs, "multiply-adds", "max_macs"),
        (cost.memory_gb, bounds.max_memory_gb, "GB of memory", "max_memory_gb"),
        (cost.latency_ms, bounds.max_latency_ms, "ms an image", "max_latency_ms"),
    ]
    for value, most, what, name in pairs:
        if most is not None and value is not None and value > most:
            return f"refused: {value:,} {what}, more than {name} {most:,}"
    return None


def latency_of(config_path: Path) -> float:
    """Milliseconds of one image by the export of a config's network, in a process of its own."""
    # By its path: this file is in one package in a checkout and in another one where it is installed.
    code = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
    command = [sys.executable, "-c", code, __file__, str(config_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"the latency of {config_path} cannot be measured: {done.stderr.strip().splitlines()[-1:]}")
    return float(json.loads(done.stdout.splitlines()[-1])["latency_ms"])


def _measure(config: TrainConfig) -> float:
    """The median of some runs, after as many to warm up; weights are random, which makes no difference."""
    source = source_of(config)
    shape = image_format_for(config, source)
    network = network_of(config, source, shape)
    image = np.zeros((1, *shape.size, shape.channels), "uint8")
    with tempfile.TemporaryDirectory() as folder:
        version = export_servable(network, Path(folder) / "net")
        return 1e3 * statistics.median(timed(version, image)[RUNS:])


def timed(version: Path, image: np.ndarray) -> list[float]:
    """Seconds of one answer after the other."""
    loaded = LoadedVersion("net", 1, version, tf.compat.v1.ConfigProto())
    seconds = []
    for _ in range(2 * RUNS):
        started = time.perf_counter()
        loaded.run("serving_default", {"image": image}, ["probabilities"])
        seconds.append(time.perf_counter() - started)
    return seconds


if __name__ == "__main__":
    print(json.dumps({"latency_ms": _measure(config_from_json(Path(sys.argv[2]).read_text("utf-8")))}))
