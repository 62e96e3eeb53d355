"""Other people's networks as servables: the answers of the model itself, in a process without this package."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from test_export_rules import L, dense_block, residual, unknown
from test_serving_process import Process

import resnet_keras as rk
from benchmarks.export_any import made
from resnet_keras.errors import UsageError
from resnet_keras.export.lowering import lower
from resnet_keras.export.operations import Call, in_order
from resnet_keras.export.quantized import available
from resnet_keras.export.servable import manifest_of

RNG = np.random.default_rng(0)
SIDE = 64
IMAGES = RNG.integers(0, 256, (3, SIDE, SIDE, 3), "uint8")
slow = pytest.mark.slow
NETWORKS = [
    "sequential",
    pytest.param("ResNet50", marks=slow),
    pytest.param("MobileNetV2", marks=slow),
    pytest.param("EfficientNetB0", marks=slow),
    pytest.param("DenseNet121", marks=slow),
    pytest.param("MobileNetV3Small", marks=slow),
    pytest.param("EfficientNetV2B0", marks=slow),
    pytest.param("ConvNeXtTiny", marks=slow),
]


def network(name: str, head: float = 1.0) -> keras.Model:
    """A network with random weights; those of its head are so small that no class has all of the probability."""
    model = made(name, SIDE)
    (*_, last) = (one for one in model._flatten_layers() if isinstance(one, L.Dense | L.Conv2D))
    last.kernel.assign(last.kernel * head)
    return model


def asked(folder: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """Probabilities and features of a servable, by TensorFlow's C interface in a process without Python TensorFlow."""
    process = Process(folder)
    found: dict[str, np.ndarray] = {}
    for signature in ("serving_default", "features"):
        code, message, outputs = process.ask(signature, images)
        assert code == 0, message
        found |= outputs
    process.close()
    return found


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    x, y = (one.ravel().astype("float64") for one in (x, y))
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_served_as_it_predicts(name: str, tmp_path: Path) -> None:
    model = network(name, head=0.05 if name == "ResNet50" else 1.0)
    assert not any(isinstance(operation, Call) for operation in in_order(*lower(model)))
    images = RNG.integers(0, 256, (3, *model.input_shape[1:]), "uint8")
    want = model.predict(images, verbose=0)
    assert np.ptp(want) > 3e-4
    for dtype in ("float32", "bfloat16"):
        folder = rk.export_servable(model, tmp_path / dtype, dtype=dtype)
        check = manifest_of(folder)["check"]
        got = asked(folder, images)["probabilities"]
        if dtype == "float32":
            assert check["largest_difference"] < 1e-5
            np.testing.assert_allclose(got, want, atol=1e-5 * want.max())
        else:
            assert check["cosine"] > 0.998
            assert cosine(got, want) > 0.999
            near = np.take_along_axis(want, got.argmax(-1)[:, None], -1)[:, 0]
            assert (near > 0.9 * want.max(-1)).all()  # the same class, or one that is as likely


def small(make: Any, classes: int = 4) -> keras.Model:
    """Layers between pixels and a head of any name."""
    pixels = keras.Input((16, 16, 3))
    x = make(L.Conv2D(6, 3, activation="relu", padding="same")(L.Rescaling(1 / 64, -2)(pixels)))
    x = L.GlobalAveragePooling2D()(x)
    model = keras.Model(pixels, L.Dense(classes, "softmax", name="anything")(x))
    rng = np.random.default_rng(1)
    for variable in model.weights:
        shape = tuple(variable.shape)
        one = variable.name in ("gamma", "moving_variance")
        variable.assign(rng.uniform(0.5, 1.5, shape) if one else rng.normal(0, 0.3, shape))
    return model


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=slow)])
def test_a_custom_layer_is_served_with_the_others(dtype: str, tmp_path: Path) -> None:
    model, images = small(unknown), IMAGES[:, :16, :16]
    folder = rk.export_servable(model, tmp_path / "net", dtype=dtype)
    want = model.predict(images, verbose=0)
    assert np.ptp(want) > 0.01
    near = 1e-5 if dtype == "float32" else 0.02
    np.testing.assert_allclose(asked(folder, images)["probabilities"], want, atol=near)


def padded_pool(x: Any) -> Any:
    return residual(L.MaxPooling2D(3, 2)(L.ZeroPadding2D(1)(x)))


@pytest.mark.parametrize(
    ("make", "share"),
    [pytest.param(padded_pool, 0.99, marks=slow), (dense_block, 0.95)],  # 2 s
)
def test_int8_where_its_rules_hold(make: Any, share: float, tmp_path: Path) -> None:
    if not available():
        pytest.skip("this TensorFlow has no quantised convolution: it needs oneDNN, on x86")
    model, images = small(make), IMAGES[:, :16, :16]
    data = RNG.integers(0, 256, (256, 16, 16, 3), "uint8")
    folder = rk.export_servable(model, tmp_path / "net", dtype="int8", calibration_data=data, max_accuracy_loss=10)
    assert manifest_of(folder)["int8"]["share_of_macs"] > share
    want = model.predict(images, verbose=0)
    assert np.ptp(want) > 0.01
    np.testing.assert_allclose(asked(folder, images)["probabilities"], want, atol=0.03)


def test_int8_says_in_a_line_where_they_do_not(tmp_path: Path) -> None:
    if not available():
        pytest.skip("this TensorFlow has no quantised convolution: it needs oneDNN, on x86")

    def make(x: Any) -> Any:
        for _ in range(3):
            x = L.Activation("silu")(L.Conv2D(8, 3, padding="same")(x))
        return x

    data = RNG.integers(0, 256, (256, 16, 16, 3), "uint8")
    with pytest.raises(UsageError, match=r"int8 computes convolutions .* use dtype bfloat16") as error:
        rk.export_servable(small(make), tmp_path / "net", dtype="int8", calibration_data=data)
    assert "\n" not in str(error.value)
