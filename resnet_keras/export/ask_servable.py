"""Run a SavedModel on one image, as a server would: a program of its own that does not import resnet_keras.

Usage: python -P ask_servable.py VERSION_FOLDER IMAGE
Prints one JSON object: labels, scores, and the seconds that one request takes.
"""

import json
import os
import sys
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import tensorflow as tf


def main(folder: str, image: str) -> None:
    tags, signature = [tf.saved_model.SERVING], "image_bytes"
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        graph = tf.compat.v1.saved_model.load(session, tags, folder).signature_def[signature]
        with open(image, "rb") as file:
            feed = {graph.inputs["image_bytes"].name: [file.read()]}
        fetch = {name: graph.outputs[name].name for name in ("labels", "scores")}
        session.run(fetch, feed)
        started = time.perf_counter()
        outputs = session.run(fetch, feed)
        seconds = time.perf_counter() - started
    assert "resnet_keras" not in sys.modules
    labels = [label.decode() for label in outputs["labels"][0]]
    print(json.dumps({"labels": labels, "scores": outputs["scores"][0].tolist(), "seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
