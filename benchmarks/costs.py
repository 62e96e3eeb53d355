"""What comes before any image: seconds until a command has answered, a network is built, an export is written."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resnet_keras.benchmarks.variants import Program

WHETHER_TENSORFLOW = "import resnet_keras, sys; print('tensorflow' in sys.modules)"


def command(words: list[str]) -> Program:
    """`python` with these words, from its start to its end; an exit code other than 0 is an error."""

    def run() -> None:
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)

    return Program(run)


def importing() -> Program:
    """`import resnet_keras` in a new interpreter, and whether TensorFlow stays out of it."""

    def run() -> dict[str, Any]:
        words = [sys.executable, "-c", WHETHER_TENSORFLOW]
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
        return {"without_tensorflow": done.stdout.strip() == "False"}

    return Program(run)


def building(model: str, application: str | None = None) -> Program:
    """A network with its weights: of ours by name, or of keras.applications."""
    from resnet_keras.startup import import_tensorflow

    import_tensorflow()
    import keras

    from resnet_keras.models.complexity import create_model

    make: Callable[[], Any] = lambda: create_model(model)  # noqa: E731
    if application:
        make = lambda: getattr(keras.applications, application)(weights=None)  # noqa: E731

    def run() -> None:
        keras.backend.clear_session()
        make()

    return Program(run)


def export(model: str, dtype: str) -> Program:
    """An export, for one call: its seconds, megabytes on disk, and resident peak in MiB beyond the model's process."""
    from resnet_keras.startup import import_tensorflow

    import_tensorflow()

    from resnet_keras.benchmarks.inference import calibration, network_of, new_folder
    from resnet_keras.export.servable import export_servable

    network = network_of(model, None)
    more = calibration(network, dtype)

    def run() -> dict[str, Any]:
        before, started = resident("VmRSS"), time.perf_counter()
        path = export_servable(network, new_folder() / model, dtype=dtype, **more)
        seconds = time.perf_counter() - started
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        mib = max(0.0, resident("VmHWM") - before)
        return {"images": 1, "seconds": seconds, "megabytes": size / 1e6, "mib": mib}

    return Program(run)


def resident(name: str) -> float:
    """MiB that this process holds (`VmRSS`), or held at most (`VmHWM`); `getrusage` would count its parent's, too."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0
