"""A SavedModel's session called by many threads with encoded images: what a server of it could answer at most."""

from typing import Any

import resnet_keras  # noqa: F401  (first: it keeps TensorFlow's start-up messages to itself)

# isort: split
import numpy as np
import tensorflow as tf

from resnet_keras.benchmarks.load import Ask, answered, ask_for, image_of
from resnet_keras.benchmarks.variants import Program


def session(folder: str, height: int, width: int, count: int, intra_op: int = 0, inter_op: int = 0) -> Program:
    """So many threads that call one session, with an image each, in this process; 0 threads is TensorFlow's choice."""
    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=intra_op, inter_op_parallelism_threads=inter_op)
    opened = tf.compat.v1.Session(graph=tf.Graph(), config=config)
    with opened.graph.as_default():
        meta = tf.compat.v1.saved_model.load(opened, [tf.saved_model.SERVING], folder)
    signature = meta.signature_def["image_bytes"]
    (given,) = signature.inputs.values()
    call = opened.make_callable([signature.outputs[name].name for name in ("labels", "scores")], [given.name])
    encoded = np.array([image_of(height, width, 3)[1]], object)

    def asked() -> tuple[Ask, Ask]:
        return (lambda: call(encoded)), (lambda: None)

    def run(seconds: float) -> dict[str, Any]:
        latencies, took = ask_for(asked, count, seconds)
        return answered(latencies, took, "the session")

    return Program(run)
