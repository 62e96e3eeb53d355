"""Whole networks behind `resnet-keras serve`: its answers, over REST and gRPC, are the model's."""

from collections.abc import Callable
from pathlib import Path

import grpc
import keras
import numpy as np
import pytest
import requests
import tensorflow as tf
from forked import Server
from serving_models import predict_request
from tensorflow_serving.apis import prediction_service_pb2_grpc
from test_serving_load import served

import resnet_keras as rk


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "near"), [("float32", 1e-5), ("bfloat16", 0.1)])
@pytest.mark.parametrize(("build", "size"), [(rk.build_convnext, "tiny"), (rk.build_vit, "s16")])
def test_answers_are_the_models(
    build: Callable[..., keras.Model], size: str, dtype: str, near: float, commands: Server, tmp_path: Path
) -> None:
    model = build(size, include_preprocessing=True)
    # A head at its start says nearly the same of every image, and the test would hold of any.
    head = model.layers[-2]
    head.kernel.assign(3 * keras.random.normal(head.kernel.shape, stddev=head.kernel.shape[0] ** -0.5, seed=0))
    images = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), "uint8")
    expected = np.asarray(model(images.astype("float32"), training=False))
    rk.export_servable(model, tmp_path / "net", dtype=dtype)
    with served(commands, "--model_name", "net", "--model_base_path", str(tmp_path / "net")) as server:
        body = {"instances": images.tolist()}
        rest = requests.post(f"http://{server.rest}/v1/models/net:predict", json=body, timeout=60).json()
        with grpc.insecure_channel(server.grpc) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            reply = stub.Predict(predict_request("net", {"image": images}), timeout=60)
        (probabilities,) = reply.outputs.values()
    assert np.ptp(expected, axis=0).max() > 0.5 * expected.max()
    for got in (np.asarray(rest["predictions"]), tf.make_ndarray(probabilities)):
        np.testing.assert_allclose(got, expected, rtol=0, atol=near * expected.max())
