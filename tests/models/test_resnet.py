"""Whole networks: shapes, parity with keras.applications, saving, precisions, refusals."""

import inspect
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import randomise

import resnet_keras as rk
from resnet_keras.errors import UsageError

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("arguments", "size", "out"),
    [
        ({"depth": 18}, 224, (None, 1000)),
        ({"depth": 50, "input_shape": (75, 49, 3), "classes": 7}, None, (None, 7)),
        ({"depth": 18, "include_top": False}, None, (None, None, None, 512)),
        ({"depth": 50, "include_top": False, "input_shape": (64, 96, 5)}, None, (None, 2, 3, 2048)),
        ({"depth": 18, "include_top": False, "pooling": "avg"}, None, (None, 512)),
        ({"depth": 34, "variant": "v2", "include_top": False, "pooling": "max"}, None, (None, 512)),
        ({"depth": 18, "stem": "cifar", "input_shape": (8, 8, 1)}, None, (None, 1000)),
        ({"depth": 50, "variant": "d", "input_shape": (33, 33, 3)}, None, (None, 1000)),
    ],
    ids=str,
)
def test_output_shapes(arguments: dict, size: int | None, out: tuple) -> None:
    model = rk.build_resnet(**arguments)
    assert model.output_shape == out
    if size:
        assert model.input_shape == (None, size, size, 3)


def test_an_odd_size_flows_through_a_net_of_unknown_size() -> None:
    model = rk.build_resnet(18, include_top=False)
    assert model(tf.zeros((1, 65, 33, 3))).shape == (1, 3, 2, 512)


def test_cifar_net() -> None:
    model = rk.build_cifar_resnet(20)
    assert (model.name, model.input_shape, model.output_shape) == ("cifar_resnet20", (None, 32, 32, 3), (None, 10))
    assert model.get_layer("stage3_block3").output.shape == (None, 8, 8, 64)
    plain = rk.build_cifar_resnet(20, shortcut="none")
    assert plain.name == "cifar_plain20"
    assert plain.count_params() == model.count_params()


def test_probabilities_and_logits() -> None:
    x = RNG.normal(size=(3, 32, 32, 3)).astype("float32")
    model = rk.build_cifar_resnet(20)
    logits = rk.build_cifar_resnet(20, classifier_activation=None)
    logits.set_weights(model.get_weights())
    np.testing.assert_allclose(model(x).numpy().sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(tf.nn.softmax(logits(x)), model(x), atol=1e-6)


def test_input_tensor() -> None:
    tensor = keras.Input((64, 64, 3))
    model = rk.build_resnet(18, input_tensor=tensor * 2.0, classes=3)
    assert model.inputs[0] is tensor
    assert model.output_shape == (None, 3)


def test_preprocessing_takes_raw_pixels() -> None:
    raw = RNG.integers(0, 256, (2, 64, 64, 3)).astype("float32")
    inside = rk.build_resnet(18, input_shape=(64, 64, 3), include_preprocessing=True)
    outside = rk.build_resnet(18, input_shape=(64, 64, 3))
    outside.set_weights(inside.get_weights())
    by_hand = (raw / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(inside(raw), outside(by_hand), rtol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "cifar_plain20",
        # Short nets of their kinds are saved and loaded in test_family.
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("resnet18", "resnet50_v2", "resnet50d", "seresnet50")
        ),
    ],
)
def test_saves_and_loads(name: str, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"input_shape": (32, 32, 3), "classes": 5, "include_preprocessing": True}
    arguments["blocks"] = (2, 1, 1) if "cifar" in name else (2, 1, 1, 1)
    model = rk.create_model(name, **arguments)
    randomise(model)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    x = RNG.integers(0, 256, (2, 32, 32, 3)).astype("float32")
    np.testing.assert_array_equal(model(x), again(x))
    model.save_weights(tmp_path / "model.weights.h5")
    third = rk.create_model(name, **arguments, weights=tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(model(x), third(x))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_precisions(policy: str, tmp_path: Path) -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = rk.build_cifar_resnet(20, input_shape=(8, 8, 3), include_preprocessing=True)
    finally:
        keras.config.set_dtype_policy(before)
    x = RNG.integers(0, 256, (2, 8, 8, 3)).astype("float32")
    assert model(x).dtype == tf.float32
    block = model.get_layer("stage2_block1")
    compute = {"float32": "float32", "mixed_bfloat16": "bfloat16", "mixed_float16": "float16"}[policy]
    assert {sub.compute_dtype for layer in block.branch for sub in layer.layers} == {compute}
    assert {weight.dtype for weight in model.weights} == {"float32"}
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.get_layer("stage2_block1").branch[0].layers[0].compute_dtype == compute
    np.testing.assert_array_equal(model(x), again(x))


def test_summary_is_short_and_opens() -> None:
    model = rk.build_resnet(50)
    assert len(model.layers) < 30
    closed, opened = io.StringIO(), io.StringIO()
    model.summary(print_fn=lambda line, **_: closed.write(line))
    model.summary(print_fn=lambda line, **_: opened.write(line), expand_nested=True)
    assert "projection" not in closed.getvalue()
    assert opened.getvalue().count("projection (ConvNorm)") == 4
    assert opened.getvalue().count("conv (Conv2D)") == 53


def test_weight_file_keys_stay(tmp_path: Path) -> None:
    """Files that people have saved must load for ever."""
    import h5py

    rk.build_cifar_resnet(20, shortcut="B").save_weights(tmp_path / "a.weights.h5")
    keys: list[str] = []
    with h5py.File(tmp_path / "a.weights.h5") as file:
        file.visititems(lambda name, item: keys.append(name) if isinstance(item, h5py.Dataset) else None)
    # Keras numbers the layers of a class, in order; a layer without weights, such as the preprocessing, has no key.
    assert "layers/conv_norm/layers/conv2d/vars/0" in keys
    assert "layers/basic_block_8/branch/conv_norm_1/layers/batch_normalization/vars/3" in keys
    assert "layers/basic_block_3/bypass/conv_norm/layers/conv2d/vars/0" in keys
    assert "layers/dense/vars/1" in keys
    assert len(keys) == 1 + 9 * 2 + 2 + 4 * (1 + 9 * 2 + 2) + 2


@pytest.mark.slow
def test_1202_layers_at_the_default_recursion_limit(tmp_path: Path) -> None:
    code = (
        "import sys; assert sys.getrecursionlimit() == 1000\n"
        "import resnet_keras as rk, numpy as np, keras\n"
        "model = rk.build_cifar_resnet(1202); x = np.zeros((1, 32, 32, 3), 'float32')\n"
        "out = model(x, training=True); model.save(sys.argv[1])\n"
        "again = keras.models.load_model(sys.argv[1]); assert np.array_equal(again(x), model(x))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.keras")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow  # 13 seconds
def test_1202_layers_build_at_the_default_recursion_limit() -> None:
    assert sys.getrecursionlimit() <= 1000
    assert rk.build_cifar_resnet(1202).count_params() == 19_510_906


def test_302_layers_build_at_a_quarter_of_the_recursion_limit() -> None:
    """As many frames a block as 1,202 layers may take at the default limit, beside those that are there already."""
    small = [rk.build_cifar_resnet(depth).count_params() for depth in (8, 14)]
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 250)
    try:
        model = rk.build_cifar_resnet(302)
    finally:
        sys.setrecursionlimit(limit)
    assert model.count_params() == small[0] + 49 * (small[1] - small[0])
    assert small[0] + 199 * (small[1] - small[0]) == 19_510_906  # of 1,202 layers


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 49}, "unknown depth '49'"),
        ({"depth": 50, "input_shape": (31, 64, 3)}, "31x64 is too small.*32x32 or more"),
        ({"depth": 50, "input_shape": (64, 64)}, r"\(height, width, channels\)"),
        ({"depth": 50, "input_shape": (64, 64, None)}, "channels known"),
        ({"depth": 50, "pooling": "mean"}, "unknown pooling 'mean'"),
        ({"depth": 50, "classifier_activation": "tanh"}, "unknown classifier_activation 'tanh'"),
        ({"depth": 50, "classes": 0}, "classes must be a whole number of at least 1, not 0"),
        ({"depth": 50, "classes": "10"}, "classes must be a whole number of at least 1, not '10'"),
        ({"depth": 50, "include_preprocessing": "imagenet"}, "include_preprocessing is True, False or a ModelCard"),
        ({"depth": 50, "input_shape": (64.0, 64, 3)}, "whole numbers"),
        ({"depth": 50, "input_shape": (-64, 64, 3)}, "whole numbers"),
        ({"depth": 50, "input_tensor": np.zeros((1, 64, 64, 3))}, "input_tensor is a Keras tensor.* not a ndarray"),
        ({"depth": 50, "name": "a/b"}, "name must be words without a slash"),
        ({"depth": 18, "variant": "v1", "weights": "imagenet"}, "no 'imagenet' weights for resnet18_v1 as it is"),
        (
            {"depth": 18, "weights": __file__},
            "cannot read weights from .*test_resnet.py; give a file ending in .keras, .saf",
        ),
        ({"depth": 18, "weights": "none.weights.h5"}, "there is no file of weights at none.weights.h5"),
        ({"depth": 18, "input_shape": (64, 64, 1), "include_preprocessing": True}, "3 means for 1 channels"),
    ],
    ids=str,
)
def test_refusals(arguments: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rk.build_resnet(**arguments)


def test_weights_of_another_net_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.weights.h5"
    rk.build_cifar_resnet(20).save_weights(path)
    with pytest.raises(UsageError, match="does not fit cifar_resnet32"):
        rk.build_cifar_resnet(32, weights=path)
    path.write_bytes(b"nothing")
    with pytest.raises(UsageError, match="does not fit"):
        rk.build_cifar_resnet(20, weights=path)


@pytest.mark.parametrize(
    "name", ["resnet18", "cifar_resnet20", "vgg11", pytest.param("cifar_densenet_bc_100_12", marks=pytest.mark.slow)]
)
def test_dtype_is_that_of_each_layer_and_of_no_other_model(name: str, tmp_path: Path) -> None:
    before = keras.config.dtype_policy().name
    small = {"vgg11": {"widths": (4, 4, 8, 8, 8), "hidden": 8}, "resnet18": {"widths": (8, 8, 16, 16)}}.get(name, {})
    model = rk.create_model(name, input_shape=(32, 32, 3), classes=3, dtype="mixed_bfloat16", **small)
    assert keras.config.dtype_policy().name == before
    model.save(tmp_path / "model.keras")
    for one in (model, keras.saving.load_model(tmp_path / "model.keras")):
        policies = {layer.dtype_policy.name for layer in one.layers if layer.weights and layer.name != "logits"}
        assert policies == {"mixed_bfloat16"}
        assert one(np.zeros((1, 32, 32, 3))).dtype == "float32"
    with pytest.raises(UsageError, match="unknown dtype 'float8'"):
        rk.create_model(name, dtype="float8")
