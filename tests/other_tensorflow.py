"""The answers of servables in whatever TensorFlow runs this, and what that TensorFlow knows: a program of its own.

Usage: python -P other_tensorflow.py FOLDER OUT
FOLDER has servables, FOLDER/NAME/1, and what each is asked: FOLDER/NAME/request.json,
{"image": {"shape": [2, 8, 8, 1], "data": "base64"}, "image_bytes": ["base64"]}
OUT gets NAME.npz, whose keys are loader/signature/output, or NAME.error where a servable cannot be loaded or asked, and
operations.pb, kernels.pb and versions.json. A servable is loaded in a session, as TensorFlow Serving does it, for all
signatures, and by `tf.saved_model.load` for serving_default.
"""

import base64
import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf
from tensorflow.python.client import pywrap_tf_session
from tensorflow.python.framework import kernels

Answers = dict[str, np.ndarray]


def by_session(folder: str, request: dict[str, Any]) -> Answers:
    answers = {}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], folder)
        for signature, described in meta.signature_def.items():
            feed = {info.name: request[name] for name, info in described.inputs.items()}
            fetch = {name: info.name for name, info in described.outputs.items()}
            found = session.run(fetch, feed)
            answers |= {f"session/{signature}/{name}": value for name, value in found.items()}
    return answers


def by_functions(folder: str, request: dict[str, Any]) -> Answers:
    found = tf.saved_model.load(folder).signatures["serving_default"](image=tf.constant(request["image"]))
    return {f"functions/serving_default/{name}": value.numpy() for name, value in found.items()}


def request_in(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text())
    pixels = np.frombuffer(base64.b64decode(found["image"]["data"]), np.uint8)
    strings = [base64.b64decode(text) for text in found["image_bytes"]]
    return {"image": pixels.reshape(found["image"]["shape"]), "image_bytes": strings}


def without_objects(value: np.ndarray) -> np.ndarray:
    return value.astype(np.bytes_) if value.dtype == object else value


def main(folder: str, out: str) -> None:
    for path in sorted(Path(folder).glob("*/request.json")):
        request, version, name = request_in(path), str(path.with_name("1")), path.parent.name
        try:
            answers = {**by_session(version, request), **by_functions(version, request)}
        except Exception as error:
            Path(out, f"{name}.error").write_text(str(error))
        else:
            save: Any = np.savez
            save(Path(out, f"{name}.npz"), **{key: without_objects(value) for key, value in answers.items()})
        gc.collect()
    operations: Any = pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList())
    Path(out, "operations.pb").write_bytes(operations)
    Path(out, "kernels.pb").write_bytes(kernels.get_all_registered_kernels().SerializeToString())
    versions = {"tensorflow": tf.__version__, "graph_def": tf.version.GRAPH_DEF_VERSION}
    Path(out, "versions.json").write_text(json.dumps(versions))


if __name__ == "__main__":
    main(*sys.argv[1:])
