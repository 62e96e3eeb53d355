"""Memory of exporting a network and of loading its servable, a process each, for peaks never fall.

Command: python -m benchmarks.servable_memory [--model NAME] [--dtype DTYPE]. Prints MiB beyond what each process held.
"""

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.costs import resident


@dataclass
class Arguments:
    """Measure one network's servable."""

    model: str = "resnet152"
    dtype: str = "float32"
    export: str = ""
    """Export to this folder, in this process."""
    load: str = ""
    """Load this version folder, in this process."""


def peak() -> float:
    return resident("VmHWM")


def held() -> float:
    """MiB in memory, of what is in use: freed memory is given back first."""
    from resnet_keras.startup import return_memory

    return_memory()
    return resident("VmRSS")


def export(arguments: Arguments) -> None:
    import resnet_keras as rk

    model = rk.create_model(arguments.model)
    before, started = held(), time.perf_counter()
    folder = rk.export_servable(model, arguments.export, dtype=arguments.dtype)
    print(f"weights {model.count_params() * 4 / 2**20:.0f} MiB")
    files = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
    print(f"export: peak {peak() - before:.0f} MiB, {time.perf_counter() - started:.1f} s, {files:.0f} MiB of files")


def load(arguments: Arguments) -> None:
    import resnet_keras as rk  # noqa: F401, I001  (first: it keeps TensorFlow's start-up messages to itself)
    import numpy as np
    import tensorflow as tf

    from resnet_keras.serving.loaded import LoadedVersion

    before = held()
    version = LoadedVersion("net", 1, Path(arguments.load), tf.compat.v1.ConfigProto())
    print(f"load: held {held() - before:.0f}, peak {peak() - before:.0f} MiB")
    shape: list[Any] = version.inputs_of("serving_default")["image"].shape.as_list()
    image = np.zeros(shape[1:], "uint8")
    png = np.array([tf.io.encode_png(image).numpy()], object)
    for name in sorted(version.signatures, key=lambda name: name != "serving_default"):
        started = time.perf_counter()
        inputs = {key: png if key == "image_bytes" else image[None] for key in version.inputs_of(name)}
        version.run(name, inputs, sorted(version.outputs_of(name)))
        seconds = time.perf_counter() - started
        print(f"first {name}: {seconds:.1f} s, peak {peak() - before:.0f} MiB, held then {held() - before:.0f}")


def main(arguments: Arguments) -> None:
    if arguments.export:
        export(arguments)
        return
    if arguments.load:
        load(arguments)
        return
    words = [sys.executable, "-m", "benchmarks.servable_memory", "--model", arguments.model, "--dtype", arguments.dtype]
    with tempfile.TemporaryDirectory() as folder:
        print(f"{arguments.model}, {arguments.dtype}", flush=True)
        subprocess.run([*words, "--export", f"{folder}/net"], check=True)
        subprocess.run([*words, "--load", f"{folder}/net/1"], check=True)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
