"""Servables of ResNet-50 beside `keras.applications.ResNet50(...).export()`, ONNX Runtime and OpenVINO, in one run.

Command: make bench-export, or python -m benchmarks.export [--size N] [--batches 1 8 32] [--pairs N] [--skip PEER ...].
Prints images/s, and for each servable of ours the median of paired ratios to each peer. All have the same
random weights; ours read raw uint8 pixels and normalise them, the peers are handed float32 that is normalised already.
Then, each in a process of its own: seconds to export, file size and peak memory of ResNet-50 and ResNet-152.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import resnet_keras as rk  # first: it keeps TensorFlow's start-up messages to itself

# isort: split
import keras
import numpy as np
import tensorflow as tf
import tyro

from resnet_keras.benchmarks.pairs import paired_ratio

Program = Callable[[], np.ndarray]
PAUSE = 0.1
"""Seconds before each timing, in which the other program's threads stop looking for work."""


@dataclass
class Arguments:
    """Time exports of ResNet-50."""

    size: int = 224
    batches: tuple[int, ...] = (1, 8, 32)
    pairs: int = 7
    dtypes: tuple[str, ...] = ("float32", "bfloat16", "int8")
    skip: tuple[str, ...] = ()
    """Of: onnxruntime, openvino."""
    costs: bool = True
    """Measure what exporting takes, too."""
    cost_of: str | None = None
    """For the processes that this one starts: the network whose export is measured, as NAME:DTYPE."""


def main(arguments: Arguments) -> None:
    if arguments.cost_of:
        print(json.dumps(cost(arguments.cost_of, arguments.size)))
        return
    with tempfile.TemporaryDirectory() as folder:
        speeds(arguments, Path(folder))
    if arguments.costs:
        print("\nexport                 seconds  file, MB  peak memory, MiB")
        for network in ("resnet50", "resnet152"):
            for dtype in arguments.dtypes:
                words = [sys.executable, "-m", "benchmarks.export", "--cost-of", f"{network}:{dtype}"]
                words += ["--size", str(arguments.size)]
                done = subprocess.run(words, capture_output=True, text=True, check=True)
                found = json.loads(done.stdout.splitlines()[-1])
                print(f"{network:10} {dtype:9} {found['seconds']:9.1f} {found['megabytes']:9.1f} {found['peak']:12.0f}")


def speeds(arguments: Arguments, folder: Path) -> None:
    shape = (arguments.size, arguments.size, 3)
    rng = np.random.default_rng(0)
    peer = keras.applications.ResNet50(weights=None, input_shape=shape)
    for layer in peer.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.gamma.assign(rng.uniform(0.3, 1.0, layer.gamma.shape))
            layer.moving_mean.assign(rng.normal(0, 0.2, layer.gamma.shape))
            layer.moving_variance.assign(rng.uniform(0.5, 1.5, layer.gamma.shape))
    card = rk.ModelCard(mean=(0.5,) * 3, std=(0.25,) * 3)
    ours = rk.build_resnet(50, "v1", input_shape=shape, include_preprocessing=card)
    rk.load_weights(ours, peer, set_card=False)  # its card would have Caffe's pixels
    images = rng.integers(0, 256, (256, *shape), "uint8")
    peer.export(folder / "peer", verbose=False)
    servables = {}
    for dtype in arguments.dtypes:
        more: dict[str, Any] = {"calibration_data": images, "max_accuracy_loss": 100.0} if dtype == "int8" else {}
        servables[dtype] = rk.export_servable(ours, folder / "models" / dtype, dtype=dtype, **more)
    print(f"ResNet-50, {arguments.size}x{arguments.size}, TensorFlow {tf.__version__}, Keras {keras.__version__}")
    inside = keras.Model(peer.input, peer.layers[-2].output)
    some = ((images[:8] / 255 - 0.5) / 0.25).astype("float32")
    head = np.asarray(peer.layers[-1].kernel, "float64")
    wanted = np.asarray(inside(some, training=False), "float64") @ head
    for dtype, path in servables.items():
        got = session(path, "features", images[:8])().astype("float64") @ head
        apart = np.abs(got - wanted).max() / np.abs(wanted).max()
        cosine = (got * wanted).sum() / np.linalg.norm(got) / np.linalg.norm(wanted)
        print(f"{dtype:9} logits apart {apart:.1e} of the largest, cosine {cosine:.6f}")
    for batch in arguments.batches:
        raw = images[:batch]
        normal = ((raw / 255 - 0.5) / 0.25).astype("float32")
        peers = {"model.export()": session(folder / "peer", "serving_default", normal)}
        for name, made in (("onnxruntime", onnxruntime_programs), ("openvino", openvino_programs)):
            if name not in arguments.skip:
                try:
                    peers |= made(folder, peer, normal, images)
                except ImportError as error:
                    print(f"{name}: left out, {error}")
        for dtype, path in servables.items():
            own = session(path, "serving_default", raw)
            for name, program in peers.items():
                times = max(1, 16 // batch)
                mine, theirs, ratio = paired_ratio(again(own, times), again(program, times), arguments.pairs, PAUSE)
                count = batch * times
                print(
                    f"batch {batch:3d}  {dtype:9} {count / mine:7.1f}/s   {name:22} {count / theirs:7.1f}/s"
                    f"   ratio {ratio}",
                    flush=True,
                )


def again(program: Program, times: int) -> Callable[[], None]:
    """A program so many times, for answers that take a few milliseconds."""

    def run() -> None:
        for _ in range(times):
            program()

    return run


def session(folder: Path, signature: str, images: np.ndarray) -> Program:
    """A SavedModel's answer to some images, in a session, as TensorFlow Serving runs it."""
    running = tf.compat.v1.Session(graph=tf.Graph())
    with running.graph.as_default():
        meta = tf.compat.v1.saved_model.load(running, [tf.saved_model.SERVING], str(folder))
    chosen = meta.signature_def[signature]
    (given,), (wanted,) = chosen.inputs.values(), chosen.outputs.values()
    call = running.make_callable(wanted.name, [given.name])
    return lambda: call(images)


def onnxruntime_programs(folder: Path, peer: keras.Model, normal: np.ndarray, images: np.ndarray) -> dict[str, Program]:
    import onnxruntime  # pyright: ignore[reportMissingImports]

    path = folder / "peer.onnx"
    if not path.exists():
        peer.export(path, format="onnx", verbose=False)
    running = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = running.get_inputs()[0].name
    return {"ONNX Runtime float32": lambda: running.run(None, {name: normal})[0]}


def openvino_programs(folder: Path, peer: keras.Model, normal: np.ndarray, images: np.ndarray) -> dict[str, Program]:
    import openvino  # pyright: ignore[reportMissingImports]

    core = openvino.Core()
    model = core.read_model(str(folder / "peer.onnx")) if (folder / "peer.onnx").exists() else None
    model = model or openvino.convert_model(str(folder / "peer"))
    programs = {}
    for name, hint in (("float32", "f32"), ("bfloat16", "bf16")):
        programs[f"OpenVINO {name}"] = _openvino(core, model, normal, hint)
    try:
        import nncf  # pyright: ignore[reportMissingImports]
    except ImportError:
        return programs
    path = folder / "peer-int8.xml"
    if not path.exists():
        calibration = nncf.Dataset(list(images[:64, None]), lambda x: ((x / 255 - 0.5) / 0.25).astype("float32"))
        openvino.save_model(nncf.quantize(model, calibration, subset_size=64), str(path))
    return {**programs, "OpenVINO int8": _openvino(core, core.read_model(str(path)), normal, "f32")}


def _openvino(core: Any, model: Any, normal: np.ndarray, hint: str) -> Program:
    model.reshape({model.input(0): normal.shape})
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"})
    request = compiled.create_infer_request()
    return lambda: request.infer({0: normal})[0]


def cost(network: str, size: int) -> dict[str, float]:
    """What exporting takes: seconds, megabytes on disk, and the resident peak of the whole process in MiB."""
    name, dtype = network.split(":")
    model = rk.create_model(name, input_shape=(size, size, 3), include_preprocessing=True)
    images = np.random.default_rng(0).integers(0, 256, (256, size, size, 3), "uint8")
    more: dict[str, Any] = {"calibration_data": images, "max_accuracy_loss": 100.0} if dtype == "int8" else {}
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        path = rk.export_servable(model, Path(folder) / name, dtype=dtype, **more)
        seconds = time.perf_counter() - started
        size_on_disk = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return {"seconds": seconds, "megabytes": size_on_disk / 1e6, "peak": resident_peak()}


def resident_peak() -> float:
    """MiB that this process held at most; `getrusage` would count what its parent held before it began, too."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]


if __name__ == "__main__":
    main(tyro.cli(Arguments))
