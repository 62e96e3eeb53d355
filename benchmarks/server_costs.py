"""What a server costs beside its answers: the first of them, and reading an image from JSON."""

import statistics
import time
from typing import Any

import resnet_keras as rk  # first: it keeps TensorFlow's start-up messages to itself

# isort: split
import numpy as np
import tensorflow as tf

from resnet_keras.benchmarks.inference import network_of, new_folder
from resnet_keras.benchmarks.load import image_of
from resnet_keras.benchmarks.variants import Program
from resnet_keras.serving import garbage, rest_json
from resnet_keras.serving.client import Rest, ServerClient
from resnet_keras.serving.json_reader import parse
from resnet_keras.serving.loaded import TensorInfo
from resnet_keras.serving.process import server_process

WARM = 10


def first_answer(model: str) -> Program:
    """A new server's first answer to a JPEG, by REST, and the median of the ten after it (`warm`)."""
    network = network_of(model, None)
    version = rk.export_servable(network, new_folder() / model)
    height, width, channels = network.input_shape[1:]
    encoded = image_of(height, width, channels)[1]

    def run() -> dict[str, Any]:
        with server_process(["--model_name", model, "--model_base_path", str(version.parent)]) as server:
            connection = Rest(server.rest, ServerClient(model=model))
            times = []
            for _ in range(1 + WARM):
                started = time.perf_counter()
                connection.predict(encoded)
                times.append(time.perf_counter() - started)
        return {"images": 1, "seconds": times[0], "warm": statistics.median(times[1:])}

    return Program(run)


def parsing(side: int) -> Program:
    """JSON of an image of floats to an array, as the server reads it after its models are loaded."""
    garbage.freeze()
    floats = np.random.default_rng(0).random((1, side, side, 3), "float32")
    specs = {"x": TensorInfo("x:0", tf.float32, tf.TensorShape([None, side, side, 3]))}
    body = rest_json.write_outputs({"y": floats}, True).replace(b"predictions", b"instances")
    if not np.array_equal(rest_json.read_inputs(parse(body), specs)["x"], floats):
        raise ValueError("JSON does not give the floats that were written")

    def run() -> None:
        rest_json.read_inputs(parse(body), specs)

    return Program(run)
