"""Tiny SavedModels to serve: what TensorFlow Serving's documentation calls half_plus_two, and variations of it."""

from pathlib import Path

import tensorflow as tf


def half_plus(two: float, folder: Path, *, steps: int = 0) -> Path:
    """y = x / 2 + two, with `steps` slow operations in between; one signature with more inputs and outputs."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x, a, b = (v1.placeholder(tf.float32, [None], name) for name in ("x", "a", "b"))
        text = v1.placeholder(tf.string, [None], "text")
        slow = x
        for _ in range(steps):
            slow = tf.reduce_sum(tf.linalg.matmul(tf.ones([600, 600]) * slow[0] * 0, tf.ones([600, 600]))) + slow
        y = tf.add(slow / 2, two, name="y")
        signatures = {
            "serving_default": _predict({"x": x}, {"y": y}),
            "two": _predict({"a": a, "b": b}, {"sum": a + b, "ratio": a / b}),
            "bytes": _predict(
                {"text": text}, {"text_bytes": tf.strings.upper(text), "length": tf.strings.length(text)}
            ),
            "scalar": _predict({"x": x}, {"sum": tf.reduce_sum(x)}),
        }
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, [tf.saved_model.SERVING], signatures)
        builder.save()
    return folder


def _predict(inputs: dict[str, tf.Tensor], outputs: dict[str, tf.Tensor]) -> object:
    v1 = tf.compat.v1.saved_model
    infos = [{name: v1.build_tensor_info(t) for name, t in some.items()} for some in (inputs, outputs)]
    return v1.build_signature_def(*infos, v1.signature_constants.PREDICT_METHOD_NAME)
