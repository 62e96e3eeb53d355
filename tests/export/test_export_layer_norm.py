"""Servables of ConvNeXt and ViT: what becomes of their layers, and which operations TensorFlow makes of them."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import randomise
from tensorflow.python.util._pywrap_util_port import IsMklEnabled

import resnet_keras as rk
from resnet_keras.cli.main import main
from resnet_keras.data.format import from_pixels
from resnet_keras.errors import UsageError
from resnet_keras.export import quantized
from resnet_keras.export.comparison import run_servable
from resnet_keras.export.floating import emit_float, emitted
from resnet_keras.export.formats import export_file
from resnet_keras.export.lowering import lower
from resnet_keras.export.operations import Attention, Call, Convolution, Dense, LayerNorm, Operation, Tokens, in_order
from resnet_keras.export.servable import manifest_of

RNG = np.random.default_rng(0)
SHAPE = (32, 32, 3)
IMAGES = RNG.integers(0, 256, (3, *SHAPE), "uint8")
Ends = tuple[Operation, ...]


def convnext(**options: Any) -> keras.Model:
    given: dict[str, Any] = {"blocks": (1, 1), "widths": (16, 32), "patch_size": 4, "input_shape": SHAPE, **options}
    model = rk.build_convnext("tiny", classes=5, include_preprocessing=True, **given)
    randomise(model)
    return model


def vit(**options: Any) -> keras.Model:
    given: dict[str, Any] = {"blocks": 1, "width": 32, "heads": 2, "patch_size": 4, "image_size": 32, **options}
    model = rk.build_vit("ti16", classes=5, include_preprocessing=True, input_shape=SHAPE, **given)
    randomise(model)
    return model


def run(ends: Ends, images: np.ndarray, dtype: tf.DType = tf.float32) -> tuple[list[np.ndarray], Counter[str]]:
    """The values of the ends, and how many of each operation the graph has that TensorFlow runs."""
    options = tf.compat.v1.RunOptions(output_partition_graphs=True)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        pixels = tf.compat.v1.placeholder(tf.uint8, [None, *images.shape[1:]])
        values = emit_float(ends, pixels, dtype)
        facts = tf.compat.v1.RunMetadata()
        answers = session.run([values[end] for end in ends], {pixels: images}, options=options, run_metadata=facts)
    return answers, Counter(node.op for graph in facts.partition_graphs for node in graph.node)


def kinds(ends: Ends) -> Counter[str]:
    return Counter(type(operation).__name__ for operation in in_order(*ends))


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16], ids=lambda dtype: dtype.name)
def test_layer_norm_gelu_and_sums_are_one_operation_each(dtype: tf.DType) -> None:
    """TensorFlow puts oneDNN's in place of ours; where it has no oneDNN, there is nothing to see."""
    if not IsMklEnabled():
        pytest.skip("this TensorFlow does not use oneDNN here")
    _, found = run(lower(convnext()), IMAGES, dtype)
    assert found["_MklLayerNorm"] == 1 + 1 + 2 + 1  # stem, downsample, blocks, head
    assert found["_MklNativeFusedMatMul"] == 2 * 2 + 1
    assert found["_MklNativeFusedDepthwiseConv2dNative"] == 2
    assert not found.keys() & {"Erf", "AddV2", "AddN", "BiasAdd", "FusedBatchNormV3", "Mul"}
    _, found = run(lower(vit()), IMAGES, dtype)
    assert found["_MklLayerNorm"] == 2 + 1
    assert found["_MklNativeFusedMatMul"] == 4 + 1
    assert found["AddV2"] == 1  # of the positions
    assert not found.keys() & {"Erf", "AddN", "BiasAdd", "FusedBatchNormV3", "Mul"}


def test_what_becomes_of_the_layers() -> None:
    """LayerScale, the scale of attention and the normalisation of pixels are in the kernels before or behind them."""
    ends = lower(convnext(layer_scale=0.1))
    assert kinds(ends) == {"Pixels": 1, "Convolution": 4, "LayerNorm": 5, "Dense": 5, "GlobalPool": 1}
    stem = next(operation for operation in in_order(*ends) if isinstance(operation, Convolution))
    assert stem.centre is not None
    ends = lower(vit(layer_scale=0.1))
    assert kinds(ends) == {
        "Pixels": 1,
        "Convolution": 1,
        "Tokens": 1,
        "LayerNorm": 3,
        "Dense": 5,
        "Attention": 1,
        "TokenPool": 1,
    }
    (attention,) = (operation for operation in in_order(*ends) if isinstance(operation, Attention))
    assert attention.scale == 1.0
    patches = next(operation for operation in in_order(*ends) if isinstance(operation, Convolution))
    assert patches.centre is not None
    summed = [operation for operation in in_order(*ends) if isinstance(operation, Dense) and len(operation.inputs) == 2]
    assert len(summed) == 2


def test_positions_of_another_size_are_interpolated_as_in_the_model() -> None:
    model = vit(image_size=48)
    ends = lower(model)
    tokens = next(operation for operation in in_order(*ends) if isinstance(operation, Tokens))
    assert tokens.positions.shape == (12, 12, 32)
    (probabilities, _), _ = run(ends, IMAGES)
    np.testing.assert_allclose(probabilities, from_pixels(model)(IMAGES.astype("float32")), atol=1e-5)


LAYERS: dict[str, tuple[Callable[[], list[keras.layers.Layer]], bool]] = {
    "strides": (lambda: [keras.layers.ZeroPadding2D(1), keras.layers.DepthwiseConv2D(3, 2, activation="relu")], True),
    "uneven": (lambda: [keras.layers.DepthwiseConv2D(3, 2, padding="same")], True),
    "even kernel": (lambda: [keras.layers.DepthwiseConv2D(4, padding="same")], True),
    "dilated": (lambda: [keras.layers.DepthwiseConv2D(3, dilation_rate=2, padding="same", use_bias=False)], True),
    "multiplied": (lambda: [keras.layers.DepthwiseConv2D(3, depth_multiplier=2)], True),
    "normed": (lambda: [keras.layers.DepthwiseConv2D((3, 5), padding="same"), keras.layers.BatchNormalization()], True),
    "no scale": (lambda: [keras.layers.LayerNormalization(scale=False, epsilon=0.1)], True),
    "no centre": (lambda: [keras.layers.LayerNormalization(center=False)], True),
    "rows": (lambda: [keras.layers.LayerNormalization(axis=2)], False),
    "two axes": (lambda: [keras.layers.LayerNormalization(axis=(-2, -1))], False),
    "dense on a map": (lambda: [keras.layers.Dense(7, "gelu"), keras.layers.Dense(4, "softmax")], True),
    "gelu": (lambda: [keras.layers.Conv2D(4, 3, activation="gelu"), keras.layers.Activation("gelu")], True),
}
"""Layers, and whether they have operations of their own; the others are called as they are."""


@pytest.mark.parametrize("case", LAYERS)
def test_options_of_the_layers(case: str) -> None:
    make, known = LAYERS[case]
    head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, "softmax")]
    model = keras.Sequential([keras.Input((9, 9, 6)), keras.layers.Rescaling(1 / 255), *make(), *head])
    randomise(model)
    images = RNG.integers(0, 256, (2, 9, 9, 6), "uint8")
    ends = lower(model)
    assert any(isinstance(operation, Call) for operation in in_order(*ends)) != known
    (probabilities, _), _ = run(ends, images)
    np.testing.assert_allclose(probabilities, model(images.astype("float32")), atol=1e-6)


def test_root_mean_square_is_no_layer_norm() -> None:
    with pytest.warns(UserWarning, match="rms_scaling"):
        layer = keras.layers.LayerNormalization(rms_scaling=True)
    layers = [layer, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, "softmax")]
    assert kinds(lower(keras.Sequential([keras.Input(SHAPE), *layers])))["Call"] == 1


def test_a_mean_far_from_zero_leaves_layer_norm_its_digits() -> None:
    """As oneDNN and Keras compute it: in two passes."""
    x = (RNG.normal(size=(4, 64)) + 1000).astype("float32")
    operation = LayerNorm(channels=64, scale=np.ones(64), shift=np.zeros(64), epsilon=1e-6)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        got = session.run(emitted(operation, tf.float32, tf.constant(x)))
    exact = x.astype("float64")
    exact = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(exact.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(got, exact, atol=1e-3)


@pytest.mark.parametrize("build", [convnext, vit])
def test_int8_that_would_gain_nothing_is_refused(build: Callable[[], keras.Model], tmp_path: Path) -> None:
    if not quantized.available():
        pytest.skip("this TensorFlow has no quantised convolution: it needs oneDNN, on x86")
    data = RNG.integers(0, 256, (256, *SHAPE), "uint8")
    with pytest.raises(UsageError, match=r"int8 computes convolutions .* use dtype bfloat16") as error:
        rk.export_servable(build(), tmp_path / "net", dtype="int8", calibration_data=data)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("build", [convnext, vit])
def test_litert_has_them_too(build: Callable[[], keras.Model], tmp_path: Path) -> None:
    """The export itself compares the two."""
    assert export_file(build(), tmp_path / "net.tflite", "litert").stat().st_size > 10_000


@pytest.mark.parametrize("build", [convnext, vit])
def test_onnx_has_them_too(build: Callable[[], keras.Model], tmp_path: Path) -> None:
    pytest.importorskip("tf2onnx", reason="tf2onnx is not here: pip install 'resnet-keras[onnx]'", exc_type=ImportError)
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not here")
    assert export_file(build(), tmp_path / "net.onnx", "onnx").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("build", "dtype", "near"),
    [
        (convnext, "float32", 1e-5),
        (vit, "bfloat16", 0.03),
        pytest.param(convnext, "bfloat16", 0.03, marks=pytest.mark.slow),
        pytest.param(vit, "float32", 1e-5, marks=pytest.mark.slow),
    ],
)
def test_the_command_exports_what_predicts_alike(
    build: Callable[[], keras.Model], dtype: str, near: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build()
    model.save(tmp_path / "net.keras")
    encoded = np.array([tf.io.encode_png(image).numpy() for image in IMAGES], object)
    expected = np.asarray(model(IMAGES.astype("float32"), training=False))
    words = ["export", str(tmp_path / "net.keras"), "--output", str(tmp_path / "net"), "--dtype", dtype, "--json"]
    assert main(words) == 0
    folder = Path(json.loads(capsys.readouterr().out)["path"])
    requests = {"serving_default": {"image": IMAGES}, "image_bytes": {"image_bytes": encoded}}
    for answer in run_servable(folder, requests).values():
        np.testing.assert_allclose(answer["probabilities"], expected, atol=near)
    assert np.ptp(expected) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext_tiny", "vit_s16"])
def test_the_whole_networks(name: str, tmp_path: Path) -> None:
    """Gammas as a trained network has them, not 1e-6, at which a block is as good as not there."""
    model = rk.create_model(name, include_preprocessing=True)
    for variable in model.weights:
        if "gamma" in variable.path or len(variable.shape) == 1:
            gamma = "gamma" in variable.path
            variable.assign(RNG.uniform(0.5, 1.5, variable.shape) if gamma else RNG.normal(0, 0.2, variable.shape))
    for dtype in ("float32", "bfloat16"):
        check = manifest_of(rk.export_servable(model, tmp_path / dtype, dtype=dtype))["check"]
        assert check["largest_difference"] < (1e-4 if dtype == "float32" else 0.1)
        assert check["cosine"] > 0.999
