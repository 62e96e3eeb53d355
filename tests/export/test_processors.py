"""int8 on processors with VNNI, and on those that add two products in 16 bits."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import resnet_keras as rk
from resnet_keras.cli.main import main
from resnet_keras.errors import UsageError
from resnet_keras.export import quantized
from resnet_keras.export.comparison import run_servable
from resnet_keras.export.operations import Convolution, Pixels
from resnet_keras.export.servable import manifest_of
from tests.small import randomise

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (320, 16, 16, 3), "uint8")
needs_int8 = pytest.mark.skipif(
    not quantized.available(), reason="this TensorFlow has no quantised convolution (oneDNN on x86 has)"
)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    model = rk.build_cifar_resnet(
        8, blocks=(1, 1), widths=(8, 16), stem_width=8, input_shape=(16, 16, 3), include_preprocessing=True
    )
    randomise(model)
    return model


def largest_level(folder: Path) -> int:
    """Of the kernels in a servable's graph that the quantised convolution reads, where the guard has none."""
    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    nodes = {node.name: node for node in saved.meta_graphs[0].graph_def.node}
    kernels = [
        tf.make_ndarray(nodes[node.input[1]].attr["value"].tensor)
        for node in nodes.values()
        if node.op == "_FusedQuantizedConv2D"
    ]
    return max(int(np.abs(kernel.astype("int8").astype(int)).max()) for kernel in kernels)


@needs_int8
def test_reduced_kernels_have_seven_bits_and_answer_alike(model: keras.Model, tmp_path: Path) -> None:
    options: dict[str, Any] = {"dtype": "int8", "calibration_data": IMAGES, "max_accuracy_loss": 100.0}
    folder = rk.export_servable(model, tmp_path / "reduced", reduce_range=True, **options)
    assert manifest_of(folder)["int8"]["kernel_levels"] == 64
    assert largest_level(folder) == 64
    request = {"features": {"image": IMAGES[:4]}}
    plain = rk.export_servable(model, tmp_path / "plain")
    got, wanted = (run_servable(one, request)["features"]["features"].ravel() for one in (folder, plain))
    assert got @ wanted > 0.999 * np.linalg.norm(got) * np.linalg.norm(wanted)
    usual = rk.export_servable(model, tmp_path / "usual", **options)
    levels = quantized.kernel_levels()
    assert manifest_of(usual)["int8"]["kernel_levels"] == largest_level(usual) == levels


@needs_int8
def test_full_kernels_answer_rightly_or_say_why_not() -> None:
    """Sums that reach 2 x 255 x 127 between two channels: 64,770, and 16 bits hold 32,767."""
    pixels = Pixels(channels=16)
    layer = Convolution(
        inputs=(pixels,), kernel=np.full((1, 1, 16, 16), 0.5), channels=16, bias=np.zeros(16), activation="relu"
    )
    images, top = np.full((1, 4, 4, 16), 255, "uint8"), 255 * 0.5 * 16
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        graphs = [quantized.Int8Graph({layer: top}, tf.constant(images), levels) for levels in (64, 127)]
        (reduced,), (full,) = (graph.emit([layer]) for graph in graphs)
        np.testing.assert_allclose(session.run(reduced), top, rtol=0.01)
        if quantized.kernel_levels() == 127:
            np.testing.assert_allclose(session.run(full), top, rtol=0.01)
        else:
            with pytest.raises(tf.errors.InvalidArgumentError, match="no VNNI.*--reduce-range"):
                session.run(full)


@needs_int8
def test_the_command_says_what_the_kernels_are(
    model: keras.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model.save("net.keras")
    for i, image in enumerate(IMAGES):
        folder = Path("images", "ab"[i % 2])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").write_bytes(tf.io.encode_png(image).numpy())
    words = ["export", "net.keras", "--dtype", "int8", "--calibration-data", "images", "--max-accuracy-loss", "100"]
    assert main([*words, "--reduce-range", "--output", "a"]) == 0
    assert "in int8 with kernels of 7 bits" in capsys.readouterr().out
    assert main([*words, "--reduce-range", "--json", "--output", "a"]) == 0
    assert json.loads(capsys.readouterr().out)["kernel_levels"] == 64


def test_where_the_sums_are_wrong_only_reduced_kernels_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def rightly(levels: int) -> bool:
        return levels <= 64

    monkeypatch.setattr(quantized, "_computes_rightly", rightly)
    assert quantized.kernel_levels.__wrapped__() == 64
    monkeypatch.setattr(quantized, "_computes_rightly", lambda levels: False)
    assert quantized.kernel_levels.__wrapped__() is None


def test_it_is_for_int8(model: keras.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="reduce_range is for int8; leave it out with dtype bfloat16"):
        rk.export_servable(model, tmp_path / "net", dtype="bfloat16", reduce_range=True)
    words = ["export", "cifar10-jpeg", "--format", "onnx", "--output", str(tmp_path / "net.onnx"), "--reduce-range"]
    assert main(words) == 2
    assert "--reduce-range" in capsys.readouterr().err
