"""The local server beside calling the SavedModel directly, with JPEG bytes, in one run.

Command: python -m benchmarks.serving [--size N] [--dtype NAME] [--clients N] [--seconds S] [--rounds N].
ResNet-50 with random weights. "direct" is a session in this process, used by as many threads as the server has
clients; then the server, in a process of its own, over gRPC and REST, batching off and on; in turn, several rounds,
medians of the ratios by round. Then: how long the first answer after a version is available takes, beside the median of
warm ones; and how long a 224x224x3 list of floats takes to become an array, with TensorFlow loaded.
"""

import base64
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import resnet_keras as rk  # first: it keeps TensorFlow's start-up messages to itself

# isort: split
import numpy as np
import requests
import tensorflow as tf
import tyro

from resnet_keras.serving import rest_json
from resnet_keras.serving.client import Connection, Grpc, Rest, ServerClient
from resnet_keras.serving.json_reader import parse
from resnet_keras.serving.loaded import TensorInfo
from resnet_keras.serving.manager import freeze_gc
from resnet_keras.serving.process import ServerProcess, server_process

Ask = Callable[[], object]


@dataclass
class Arguments:
    """Time the local server."""

    size: int = 224
    dtype: str = "float32"
    clients: int = 4
    seconds: float = 8.0
    rounds: int = 3


def main(arguments: Arguments) -> None:
    shape = (arguments.size, arguments.size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, "uint8")
    smooth = tf.cast(tf.image.resize(pixels[::16, ::16], shape[:2], "bicubic", antialias=True), tf.float32)
    jpeg = tf.io.encode_jpeg(tf.saturate_cast(smooth, tf.uint8), quality=90).numpy()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        model = rk.build_resnet(50, input_shape=shape, include_preprocessing=True)
        version = rk.export_servable(model, Path(folder) / "resnet50", dtype=arguments.dtype)
        batching = Path(folder) / "batching.config"
        batching.write_text(
            f"max_batch_size {{ value: {arguments.clients} }} batch_timeout_micros {{ value: 2000 }} "
            "max_enqueued_batches { value: 100 } num_batch_threads { value: 1 }"
        )
        flags = ["--model_name", "resnet50", "--model_base_path", str(version.parent)]
        plain = running.enter_context(server_process(flags))
        batched_flags = [*flags, "--enable_batching", "--batching_parameters_file", str(batching)]
        batched = running.enter_context(server_process(batched_flags))
        image = Path(folder) / "image.jpg"
        image.write_bytes(jpeg)
        ways: dict[str, Callable[[], Ask]] = {"direct": lambda: direct(version, jpeg)}
        for name, server in (("", plain), (", batching", batched)):
            ways[f"gRPC{name}"] = lambda server=server: over(Grpc, server.grpc, jpeg)  # type: ignore[misc]
            ways[f"REST{name}"] = lambda server=server: over(Rest, server.rest, jpeg)  # type: ignore[misc]
        print(f"ResNet-50 {arguments.dtype}, JPEG of {len(jpeg):,} bytes, {arguments.clients} clients")
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(arguments.rounds):
            for name, make in ways.items():
                rates[name].append(rate(make, arguments.clients, arguments.seconds))
        for name, found in rates.items():
            ratio = statistics.median(own / base for own, base in zip(found, rates["direct"], strict=True))
            print(f"{name:15} {statistics.median(found):7.1f} images/s, {ratio:.2f} of direct")
    first_answers(version_of=arguments, jpeg=jpeg)
    parsing()


_mine = threading.local()


def direct(version: Path, jpeg: bytes) -> Ask:
    """A call of the SavedModel's session, which all threads share."""
    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        meta = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], str(version))
    signature = meta.signature_def["image_bytes"]
    (given,) = signature.inputs.values()
    call = session.make_callable([signature.outputs[name].name for name in ("labels", "scores")], [given.name])
    return lambda: call(np.array([jpeg], object))


def over(kind: Callable[[str, ServerClient], Connection], address: str, jpeg: bytes) -> Ask:
    """A call of a server, each thread by a connection of its own."""
    key, client = f"{kind}{address}", ServerClient(model="resnet50")

    def ask() -> object:
        if not hasattr(_mine, key):
            setattr(_mine, key, kind(address, client))
        return getattr(_mine, key).predict(jpeg)

    return ask


def rate(make: Callable[[], Ask], clients: int, seconds: float) -> float:
    """Answers a second to so many clients at a time."""
    ask = make()
    counts, start, end = [0] * clients, threading.Barrier(clients + 1), [0.0]

    def work(number: int) -> None:
        ask()
        start.wait()
        while time.perf_counter() < end[0]:
            ask()
            counts[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    end[0] = time.perf_counter() + 3600
    start.wait()
    began = time.perf_counter()
    end[0] = began + seconds
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


def first_answers(version_of: Arguments, jpeg: bytes) -> None:
    """The first answer after AVAILABLE, by the median of ten warm ones; three new servers."""
    shape = (version_of.size, version_of.size, 3)
    with tempfile.TemporaryDirectory() as folder:
        model = rk.build_resnet(50, input_shape=shape, include_preprocessing=True)
        version = rk.export_servable(model, Path(folder) / "resnet50", dtype=version_of.dtype)
        for _ in range(3):
            with server_process(["--model_name", "resnet50", "--model_base_path", str(version.parent)]) as server:
                times = [_seconds_to_answer(server, jpeg) for _ in range(11)]
            warm = statistics.median(times[1:])
            print(f"first answer {times[0] * 1e3:.0f} ms, warm {warm * 1e3:.0f} ms: {times[0] / warm:.2f}")


def _seconds_to_answer(server: ServerProcess, jpeg: bytes) -> float:
    body = {"signature_name": "image_bytes", "instances": [{"b64": base64.b64encode(jpeg).decode()}]}
    data, url = json.dumps(body).encode(), f"http://{server.rest}/v1/models/resnet50:predict"
    started = time.perf_counter()
    response = requests.post(url, data, timeout=60)
    seconds = time.perf_counter() - started
    response.raise_for_status()
    return seconds


def parsing() -> None:
    """An image of floats, from JSON to an array, as the server does it after its models are loaded."""
    freeze_gc()
    floats = np.random.default_rng(0).random((1, 224, 224, 3), "float32")
    specs = {"x": TensorInfo("x:0", tf.float32, tf.TensorShape([None, 224, 224, 3]))}
    body = rest_json.write_outputs({"y": floats}, True).replace(b"predictions", b"instances")
    times, arrays = [], {}
    for _ in range(15):
        started = time.perf_counter()
        arrays = rest_json.read_inputs(parse(body), specs)
        times.append(time.perf_counter() - started)
    assert np.array_equal(arrays["x"], floats)
    print(f"JSON of 224x224x3 floats ({len(body):,} bytes) to an array: {statistics.median(times) * 1e3:.1f} ms")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
