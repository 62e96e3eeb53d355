"""Any classifier of Keras as a servable: the served answer is the model's own on the same pixels."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import randomise

import resnet_keras as rk
from resnet_keras.cli.main import main
from resnet_keras.errors import UsageError
from resnet_keras.export.comparison import run_servable
from resnet_keras.export.formats import _run_litert, export_file
from resnet_keras.export.quantized import available
from resnet_keras.export.servable import manifest_of

RNG = np.random.default_rng(0)
SHAPE = (32, 32, 3)
IMAGES = RNG.integers(0, 256, (3, *SHAPE), "uint8")


def mobilenet() -> keras.Model:
    """As Keras's guide to transfer learning writes it: arithmetic for preprocessing, a backbone, any head."""
    pixels = keras.Input(SHAPE)
    x = keras.applications.mobilenet_v2.preprocess_input(pixels)
    backbone = keras.applications.MobileNetV2(SHAPE, alpha=0.35, include_top=False, weights=None)
    x = keras.layers.GlobalAveragePooling2D()(backbone(x, training=False))
    return keras.Model(pixels, keras.layers.Dense(4, name="prediction_layer")(keras.layers.Dropout(0.2)(x)))


def own_backbone() -> keras.Model:
    backbone = rk.build_cifar_resnet(8, include_top=False, include_preprocessing=True, input_shape=SHAPE)
    x = keras.layers.GlobalAveragePooling2D()(backbone.output)
    return keras.Model(backbone.input, keras.layers.Dense(4, "softmax", name="species")(x))


def sequential() -> keras.Model:
    convolutions = [keras.layers.Conv2D(8, 3, activation="relu"), keras.layers.MaxPooling2D()]
    dense = [keras.layers.Flatten(), keras.layers.Dense(8, "relu"), keras.layers.BatchNormalization()]
    head = [keras.layers.Dense(4), keras.layers.Activation("softmax")]
    return keras.Sequential([keras.Input(SHAPE), keras.layers.Rescaling(1 / 255), *convolutions, *dense, *head])


def several_branches() -> keras.Model:
    """Operations with constants and several inputs, a Lambda, and a model that is called twice."""
    pixels = keras.Input(SHAPE)
    x = keras.layers.Lambda(lambda x: x / 255)(pixels)
    part = keras.Input((*SHAPE[:2], 4))
    twice = keras.Model(part, keras.layers.Conv2D(4, 3, padding="same", activation="relu")(part))
    x = keras.layers.Conv2D(4, 1)(x)
    x = keras.ops.concatenate([twice(x), keras.layers.Multiply()([twice(twice(x)), x])], -1) - 0.5
    x = keras.ops.mean(x[:, 1:], axis=(1, 2))
    return keras.Model(pixels, keras.layers.Dense(4, "sigmoid")(x))


def convolution_for_a_head() -> keras.Model:
    """As SqueezeNet ends."""
    layers = [keras.layers.Conv2D(4, 3), keras.layers.GlobalAveragePooling2D(), keras.layers.Softmax()]
    return keras.Sequential([keras.Input(SHAPE), keras.layers.Rescaling(1 / 255), *layers])


HEADS = {"mobilenet": "softmax, put behind the model's logits", "several_branches": "sigmoid"}


MOBILENET = pytest.param(mobilenet, id="mobilenet", marks=pytest.mark.slow)  # 6 s


@pytest.mark.parametrize(
    "build",
    [
        MOBILENET,
        # 2 s each: a new head on a backbone is below, and convolutions are in the others.
        *(pytest.param(one, marks=pytest.mark.slow) for one in (own_backbone, convolution_for_a_head)),
        sequential,
        several_branches,
    ],
    ids=lambda f: f.__name__,
)
def test_a_classifier_of_keras_is_served_as_it_predicts(build: Callable[[], keras.Model], tmp_path: Path) -> None:
    model = build()
    randomise(model)
    before = model.predict(IMAGES, verbose=0)
    expected = tf.nn.softmax(before).numpy() if build is mobilenet else before
    folder = rk.export_servable(model, tmp_path / "net", labels=["a", "b", "c", "d"])
    encoded = np.array([tf.io.encode_png(image).numpy() for image in IMAGES], object)
    requests = {
        "serving_default": {"image": IMAGES},
        "image_bytes": {"image_bytes": encoded},
        "features": {"image": IMAGES},
    }
    answers = run_servable(folder, requests)
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(answers["serving_default"]["probabilities"], expected, atol=1e-5)
    np.testing.assert_allclose(answers["image_bytes"]["probabilities"], expected, atol=1e-5)
    best = [label.decode() for label in answers["image_bytes"]["labels"][:, 0]]
    assert best == ["abcd"[i] for i in expected.argmax(-1)]
    assert answers["features"]["features"].ndim == 2
    manifest = manifest_of(folder)
    assert manifest["head"] == HEADS.get(build.__name__, "softmax")
    assert manifest["card"]["labels"] == ["a", "b", "c", "d"]
    path = tmp_path / "a.png"
    path.write_bytes(encoded[0])
    predicted = rk.predict(model, [path], 4)[0]
    np.testing.assert_allclose(predicted.scores, np.sort(expected[0])[::-1], atol=1e-5)
    np.testing.assert_array_equal(model.predict(IMAGES, verbose=0), before)


def test_bfloat16_and_a_file_for_phones(tmp_path: Path) -> None:
    model = own_backbone()
    randomise(model)
    expected = model.predict(IMAGES, verbose=0)
    folder = rk.export_servable(model, tmp_path / "net", dtype="bfloat16")
    answers = run_servable(folder, {"serving_default": {"image": IMAGES}})["serving_default"]["probabilities"]
    np.testing.assert_allclose(answers, expected, atol=0.1)
    assert not np.array_equal(answers, expected)
    file = export_file(model, tmp_path / "net.tflite", "litert")
    np.testing.assert_allclose(_run_litert(file.read_bytes(), IMAGES), expected, atol=1e-5)


@pytest.mark.slow  # 2 s: test_export_any has int8
def test_int8_of_a_model_of_keras(tmp_path: Path) -> None:
    if not available():
        pytest.skip("this TensorFlow has no quantised convolution: it needs oneDNN, on x86")
    model = sequential()
    randomise(model)
    data = RNG.integers(0, 256, (256, *SHAPE), "uint8")
    folder = rk.export_servable(model, tmp_path / "net", dtype="int8", calibration_data=data, max_accuracy_loss=10)
    assert manifest_of(folder)["int8"]["share_of_macs"] > 0.5
    answers = run_servable(folder, {"serving_default": {"image": IMAGES}})["serving_default"]["probabilities"]
    np.testing.assert_allclose(answers, model.predict(IMAGES, verbose=0), atol=0.05)


def test_a_new_head_on_a_packaged_backbone_is_exported_with_its_own_labels(tmp_path: Path) -> None:
    """Ten classes, as many as the backbone had."""
    backbone = rk.create_model("cifar_resnet20", weights="cifar10-jpeg", include_top=False, input_shape=SHAPE)
    x = keras.layers.GlobalAveragePooling2D()(backbone.output)
    model = keras.Model(backbone.input, keras.layers.Dense(10, "softmax", name="logits")(x))
    folder = rk.export_servable(model, tmp_path / "net")
    assert (folder / "assets" / "labels.txt").read_text().split() == [str(i) for i in range(10)]
    card = manifest_of(folder)["card"]
    assert (card["metrics"], card["recipe"], card["data"], card["claims"]) == ({}, "", "", {})
    assert card["mean"] == list(rk.model_card(rk.load_model("cifar10-jpeg")).mean)
    answers = run_servable(folder, {"serving_default": {"image": IMAGES}})["serving_default"]["probabilities"]
    np.testing.assert_allclose(answers, model(rk.preprocess_input(IMAGES, model)), atol=1e-5)


def test_the_command_says_what_it_added(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layers: list[Any] = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
    keras.Sequential([keras.Input(SHAPE), keras.layers.Conv2D(4, 3), *layers]).save(tmp_path / "net.keras")
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\ndog\n")
    words = ["export", str(tmp_path / "net.keras"), "--output", str(tmp_path / "served"), "--json"]
    assert main([*words, "--labels", str(labels)]) == 0
    out, err = capsys.readouterr()
    assert (Path(json.loads(out)["path"]) / "assets" / "labels.txt").read_text() == "cat\ndog\n"
    assert "a softmax was put behind" in err
    assert "they go in as they are, 0 to 255" in err
    assert main([*words, "--labels", str(tmp_path / "none.txt")]) == 2
    assert "cannot read the labels" in capsys.readouterr().err


def test_what_cannot_be_exported_is_refused_in_words(tmp_path: Path) -> None:
    @keras.saving.register_keras_serializable("tests")
    class Halved(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x[:, ::2]

    pixels = keras.Input(SHAPE)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(pixels))
    two = keras.Model(pixels, [keras.layers.Dense(2)(x), keras.layers.Dense(3)(x)], name="two")
    subclass = type("Mine", (keras.Model,), {"call": lambda self, x: x})()
    for model, words in (
        (two, "two is no classifier: it has 2 outputs; give the one of the classes"),
        (subclass, "is a Mine|a Mine whose graph is not known; give a functional keras.Model"),
        (keras.Model(pixels, keras.layers.Dense(3, "tanh")(x), name="odd"), "odd ends in neither logits nor"),
    ):
        with pytest.raises(UsageError, match=words) as error:
            rk.export_servable(model, tmp_path / "net")
        assert "\n" not in str(error.value)
    assert not (tmp_path / "net").exists()
