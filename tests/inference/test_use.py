"""Evaluation, prediction and export of a trained run."""

import dataclasses
import json
import math
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from display_log import DisplayLog
from small import randomise

import resnet_keras as rk
from resnet_keras.data.format import ImageFormat, image_format
from resnet_keras.errors import UsageError
from resnet_keras.export import ask_servable, calibration, lowering, quantized, servable
from resnet_keras.files import json_text
from resnet_keras.inference.evaluate import Evaluation, Evaluator
from resnet_keras.models.around import classifier_around
from resnet_keras.progress import shown_by
from resnet_keras.reports.plots import draw_confusion, png_of

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def small() -> keras.Model:
    """A network for what does not depend on which one it is."""
    card = rk.ModelCard(mean=(0.5,), std=(0.5,), labels=tuple("0123456789"))
    model = rk.build_cifar_resnet(8, input_shape=(8, 8, 1), include_preprocessing=card)
    randomise(model)
    return model


def fixed_probabilities(rows: np.ndarray) -> keras.Model:
    """A model that answers image i, all of brightness i, with row i."""
    inputs = keras.Input((1, 1, 3))
    card = rk.ModelCard(mean=(0.0,), std=(1 / 255,))
    from resnet_keras.models.preprocessing import Preprocessing

    numbers = Preprocessing(card)(inputs)[:, 0, 0, 0]
    table = keras.layers.Embedding(*rows.shape, embeddings_initializer=keras.initializers.Constant(rows))
    return keras.Model(inputs, table(keras.ops.cast(keras.ops.round(numbers), "int32")))


def test_evaluation_is_its_definitions() -> None:
    rows = RNG.dirichlet(np.ones(8), 20).astype("float32")
    targets = RNG.integers(0, 7, 20)  # the last class has no image
    images = np.broadcast_to(np.arange(20, dtype="uint8")[:, None, None, None], (20, 1, 1, 3))
    batches = tf.data.Dataset.from_tensor_slices((images, np.eye(8)[targets])).batch(6)
    result = Evaluator(fixed_probabilities(rows), tuple("abcdefgh"))(batches)
    assert result.loss == pytest.approx(-np.log(rows[np.arange(20), targets]).mean(), rel=1e-5)
    assert result.accuracy == np.mean(rows.argmax(-1) == targets)
    best = np.argsort(-rows)[:, :5]
    assert result.top5_accuracy == np.mean([t in b for t, b in zip(targets, best, strict=True)])
    assert result.examples == 20
    for i, row in enumerate(result.per_class):
        predicted, true = rows.argmax(-1) == i, targets == i
        assert row["examples"] == true.sum()
        assert row["recall"] == (pytest.approx(predicted[true].mean()) if true.any() else None)
        assert row["precision"] == (pytest.approx(true[predicted].mean()) if predicted.any() else None)
    assert json.loads(json.dumps(result.to_dict()))["confusion"] == result.confusion.tolist()


def test_evaluate_a_run_gives_what_training_did(digits_run: Path, data_dir: str) -> None:
    metrics = json.loads((digits_run / "metrics.json").read_text())
    result = rk.evaluate(digits_run, data_dir=data_dir)
    assert result.loss == pytest.approx(metrics["loss"], rel=1e-6)
    assert result.accuracy == metrics["accuracy"]
    again = rk.evaluate(digits_run / "model.keras", "digits", data_dir=data_dir, batch_size=7)
    assert again.accuracy == metrics["accuracy"]


def test_evaluate_finds_classes_by_name_not_by_place(image_folder: Path) -> None:
    ways = []
    for labels in (("blue", "red"), ("red", "blue")):
        card = rk.ModelCard(mean=(0.5,), std=(0.5,), labels=labels)
        model = rk.build_cifar_resnet(8, classes=2, input_shape=(8, 8, 3), include_preprocessing=card)
        if ways:
            model.set_weights(ways[0][1].get_weights())
            kernel, bias = model.get_layer("logits").get_weights()
            model.get_layer("logits").set_weights([kernel[:, ::-1], bias[::-1]])
        ways.append((rk.evaluate(model, str(image_folder)), model))
    assert ways[0][0].loss == pytest.approx(ways[1][0].loss, rel=1e-5)
    assert ways[0][0].confusion.tolist() == ways[1][0].confusion.tolist()


def test_evaluate_refusals(digits_run: Path, data_dir: str, image_folder: Path) -> None:
    with pytest.raises(UsageError, match="has 10 classes, .* has 2"):
        rk.evaluate(digits_run, str(image_folder))
    with pytest.raises(UsageError, match="does not say which data it is for; give --data"):
        rk.evaluate(rk.build_cifar_resnet(8))
    with pytest.raises(UsageError, match="takes 3 channels, digits has 1"):
        rk.evaluate(rk.build_cifar_resnet(8), "digits", data_dir=data_dir)
    letters = rk.ModelCard(mean=(0.5,), std=(0.5,), labels=tuple("abcdefghij"))
    model = rk.build_cifar_resnet(8, input_shape=(8, 8, 1), include_preprocessing=letters)
    with pytest.raises(UsageError, match="a class '0' that cifar_resnet8 was not trained on"):
        rk.evaluate(model, "digits", data_dir=data_dir)


def test_predict_from_every_kind_of_source(digits_run: Path, servable: Path, digit_png: Path) -> None:
    model = rk.load_model(digits_run)
    pixels = tf.io.decode_png(digit_png.read_bytes(), 1)[None]
    probabilities = model(tf.cast(pixels, "float32")).numpy()[0]
    sources = [digits_run, digits_run / "model.keras", model, servable, servable.parent]
    for source in sources:
        first, second = rk.predict(source, [digit_png, digit_png], top_k=3)
        assert first.labels == second.labels == tuple(str(i) for i in np.argsort(-probabilities)[:3])
        np.testing.assert_allclose(first.scores, np.sort(probabilities)[::-1][:3], atol=1e-5)


def test_predict_prepares_images_of_any_size_as_evaluation_does(digits_run: Path, tmp_path: Path) -> None:
    colour = RNG.integers(0, 256, (40, 31, 3), "uint8")
    (tmp_path / "a.png").write_bytes(tf.io.encode_png(colour).numpy())
    model = rk.load_model(digits_run)
    shape = image_format(model)
    expected = model(shape.evaluation_transform(tf.io.encode_png(colour))[None]).numpy()[0]
    scores = rk.predict(model, [tmp_path / "a.png"], top_k=10)[0].scores
    np.testing.assert_allclose(scores, np.sort(expected)[::-1], rtol=1e-5)


def test_predict_with_a_net_that_has_no_card(digit_png: Path) -> None:
    model = rk.build_cifar_resnet(8)
    prediction = rk.predict(model, [digit_png])[0]
    assert len(prediction.labels) == 5
    assert set(prediction.labels) <= set("0123456789")


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0" + b"x" * 50], ids=["empty", "text", "jpeg"])
def test_predict_refuses_what_is_no_image(digits_run: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.jpg is not an image, a damaged one or too large"):
        rk.predict(digits_run, [tmp_path / "a.jpg"])


def damaged(run: Path, tmp_path: Path, kind: str) -> Path:
    path = tmp_path / "model.keras"
    whole = (run / "model.keras").read_bytes()
    if kind == "text":
        path.write_text("no model")
    elif kind == "half":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "flipped":
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes(1000) + whole[middle + 1000 :])
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", "{}")
    return path


@pytest.mark.parametrize("kind", ["text", "half", "flipped", "another zip"])
def test_a_damaged_model_is_refused(digits_run: Path, digit_png: Path, tmp_path: Path, kind: str) -> None:
    path = damaged(digits_run, tmp_path, kind)
    with pytest.raises(UsageError, match=r"model\.keras") as error:
        rk.predict(path, [digit_png])
    assert "damaged" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_damaged_servable_is_refused(servable: Path, digit_png: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(servable, tmp_path / "1")
    (copy / "saved_model.pb").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="cannot be loaded"):
        rk.predict(copy, [digit_png])


def test_signatures(servable: Path, digits_run: Path, digit_png: Path) -> None:
    loaded = tf.saved_model.load(str(servable))
    assert set(loaded.signatures) == {"serving_default", "image_bytes", "features", "explain"}
    model = rk.load_model(digits_run)
    images = RNG.integers(0, 256, (3, 8, 8, 1), "uint8")
    out = loaded.signatures["serving_default"](image=tf.constant(images))
    assert list(out) == ["probabilities"]
    np.testing.assert_allclose(out["probabilities"], model(images.astype("float32")), atol=1e-6)
    features = loaded.signatures["features"](image=tf.constant(images))["features"]
    pooled = keras.Model(model.input, model.get_layer("avg_pool").output)
    np.testing.assert_allclose(features, pooled(images.astype("float32")), rtol=1e-4, atol=1e-6)
    answer = loaded.signatures["image_bytes"](image_bytes=tf.constant([digit_png.read_bytes()] * 2))
    assert {name: (value.dtype, value.shape) for name, value in answer.items()} == {
        "labels": (tf.string, (2, 5)),
        "scores": (tf.float32, (2, 5)),
        "probabilities": (tf.float32, (2, 10)),
    }


@pytest.mark.parametrize("shape", [(1, 9, 8, 1), (8, 8, 1)])
def test_a_wrongly_shaped_image_is_refused_by_the_graph(servable: Path, shape: tuple[int, ...]) -> None:
    """Without a check in the graph, such an image can end the process: here, pytest's."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        signature = v1.saved_model.load(session, ["serve"], str(servable)).signature_def["serving_default"]
        fetch, feed = signature.outputs["probabilities"].name, signature.inputs["image"].name
        assert session.run(fetch, {feed: np.zeros((1, 8, 8, 1), "uint8")}).shape == (1, 10)
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
            session.run(fetch, {feed: np.zeros(shape, "uint8")})


@pytest.mark.slow  # 5 s: test_serving_process asks servables without Python's TensorFlow
def test_the_servable_answers_in_a_process_without_the_package(
    servable: Path, digits_run: Path, digit_png: Path
) -> None:
    command = [sys.executable, "-P", ask_servable.__file__, str(servable), str(digit_png)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=digit_png.parent)
    answer = json.loads(done.stdout)
    expected = rk.predict(digits_run, [digit_png])[0]
    assert tuple(answer["labels"]) == expected.labels
    np.testing.assert_allclose(answer["scores"], expected.scores, atol=1e-6)


def test_the_manifest_says_how_to_use_it(servable: Path) -> None:
    manifest = json.loads((servable / "assets.extra" / "manifest.json").read_text())
    assert manifest["card"]["labels"] == list("0123456789")
    assert manifest["card"]["data"] == manifest["card"]["recipe"] == "digits"
    assert manifest["input"] == {"size": [8, 8], "channels": 1, "pixels": "raw, 0 to 255"}
    assert 0 <= manifest["check"]["largest_difference"] <= 1e-5
    assert math.isfinite(manifest["card"]["metrics"]["accuracy"])


def foreign(kind: str) -> keras.Model:
    layers, image = keras.layers, keras.Input((8, 8, 3))
    if kind == "vector":
        return keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    if kind == "unbuilt":
        return keras.Sequential([layers.Dense(3)])
    if kind == "map":
        return keras.Model(image, layers.Conv2D(3, 3)(image))
    flat = layers.Flatten()(image)
    if kind == "two outputs":
        return keras.Model(image, [layers.Dense(3)(flat), layers.Dense(2)(flat)])
    other = keras.Input((8, 8, 3))
    return keras.Model([image, other], layers.Dense(3)(layers.Flatten()(image + other)))


@pytest.mark.parametrize("kind", ["vector", "unbuilt", "map", "two outputs", "two inputs"])
def test_models_that_are_no_classifiers_are_refused(kind: str, digit_png: Path, data_dir: str, tmp_path: Path) -> None:
    model = foreign(kind)
    for use in (
        lambda: rk.predict(model, [digit_png]),
        lambda: rk.evaluate(model, "digits", data_dir=data_dir),
        lambda: rk.export_servable(model, tmp_path / "net"),
    ):
        with pytest.raises(UsageError, match="is no classifier"):
            use()


def test_logits_become_probabilities_in_use(digit_png: Path, tmp_path: Path) -> None:
    model = rk.build_cifar_resnet(8)
    logits = rk.build_cifar_resnet(8, classifier_activation=None)
    logits.set_weights(model.get_weights())
    for source in (logits, rk.export_servable(logits, tmp_path / "net")):
        prediction = rk.predict(source, [digit_png], top_k=5)[0]
        np.testing.assert_allclose(prediction.scores, rk.predict(model, [digit_png])[0].scores, atol=1e-5)


def test_a_model_of_nothing_but_nan_is_right_about_nothing(data_dir: str) -> None:
    card = rk.ModelCard(mean=(0.5,), std=(0.5,), labels=tuple("0123456789"))
    model = rk.build_cifar_resnet(8, input_shape=(8, 8, 1), include_preprocessing=card)
    model.get_layer("logits").set_weights([np.full((64, 10), np.nan), np.zeros(10)])
    result = rk.evaluate(model, "digits", data_dir=data_dir)
    assert result.top5_accuracy == 0
    assert json.loads(json_text(result.to_dict()))["loss"] is None


def test_reports_draw_any_class_name() -> None:
    labels = ("$\\foo$", "猫", "<b>")
    figure = draw_confusion(Evaluation(0.1, 0.5, 1.0, 3, labels, np.eye(3, dtype="int64")))
    assert len(png_of(figure)) > 1000


@pytest.mark.slow
def test_many_images_are_answered_in_batches(servable: Path, digits_run: Path, digit_png: Path) -> None:
    for source in (servable, digits_run):
        answers = rk.predict(source, [digit_png] * 70, top_k=1)
        assert len({(answer.labels, round(answer.scores[0], 5)) for answer in answers}) == 1
        assert rk.predict(source, []) == []


def test_versions_count_up(small: keras.Model, tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "notes").mkdir()
    assert rk.export_servable(small, tmp_path).name == "8"
    assert rk.export_servable(small, tmp_path, version=3).name == "3"
    with pytest.raises(UsageError, match="version 3 exists"):
        rk.export_servable(small, tmp_path, version=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "7", "8", "notes"]


def test_a_failed_export_leaves_nothing(small: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> float:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(servable, "compare", fail)
    with pytest.raises(UsageError, match="No space left on device"):
        rk.export_servable(small, tmp_path / "net")
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize(
    ("dtype", "change"), [("float32", 1.02), pytest.param("bfloat16", -1.0, marks=pytest.mark.slow)]
)
def test_a_servable_that_differs_is_not_exported(
    dtype: str, change: float, small: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One kernel of the graph is not the model's: by a fiftieth where float32 must be exact, else by its sign."""

    def lower(model: keras.Model) -> Any:
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
        kernel = copy.get_layer("stage1_block1").trainable_variables[0]
        kernel.assign(kernel * change)
        return lowering.lower(copy)

    assert rk.export_servable(small, tmp_path / "sound", dtype=dtype).name == "1"
    monkeypatch.setattr(servable, "lower", lower)
    with pytest.raises(RuntimeError, match="not exported"):
        rk.export_servable(small, tmp_path / "net", dtype=dtype)
    assert not (tmp_path / "net").exists()


@pytest.mark.slow
@pytest.mark.skipif(not quantized.available(), reason="this TensorFlow has no quantised convolution")
def test_an_int8_servable_that_answers_other_than_it_was_proved_is_not_exported(
    small: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By half a percentage point of probability."""

    def calibrate(*arguments: Any) -> calibration.Calibrated:
        proved = calibration.calibrate(*arguments)
        return dataclasses.replace(proved, probabilities=proved.probabilities + 0.005)

    images = RNG.integers(0, 256, (256, 8, 8, 1), "uint8")
    options: dict[str, Any] = {"dtype": "int8", "calibration_data": images, "max_accuracy_loss": 100.0}
    log = DisplayLog()
    with shown_by(log):
        assert rk.export_servable(small, tmp_path / "sound", **options).name == "1"
    counted = [done for done, total in (told[1:] for told in log.told if told[0] == "to") if total]
    assert counted[-1] == 8 * 128  # passes over one half of the images or the other
    assert ("begin", "calibrating int8", 8 * 128, "") in log.told
    monkeypatch.setattr(servable, "calibrate", calibrate)
    with pytest.raises(RuntimeError, match="not exported"):
        rk.export_servable(small, tmp_path / "net", **options)
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "int4"}, "unknown dtype 'int4'; choose from float32, bfloat16, int8"),
        ({"calibration_data": "digits"}, "calibration_data is for int8"),
        ({"dtype": "int8"}, "int8 needs calibration_data"),
        ({"dtype": "int8", "calibration_data": np.zeros((256, 9, 9, 1), "uint8")}, r"must be uint8 \[N, 8, 8, 1\]"),
        ({"dtype": "int8", "calibration_data": np.zeros((9, 8, 8, 1), "uint8")}, "9 images are too few"),
        ({"dtype": "int8", "calibration_data": 5}, "not int"),
        ({"reduce_range": True}, "reduce_range is for int8; leave it out with dtype float32"),
        ({"top_k": 0}, "top_k must be"),
        ({"version": 0}, "version must be"),
        ({"labels": ["a"]}, "1 labels for the 10 classes"),
    ],
    ids=str,
)
def test_export_refusals(
    small: keras.Model, tmp_path: Path, arguments: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servable, "kernel_levels", lambda: 127)  # a refusal of the data needs no int8 kernel here
    with pytest.raises(UsageError, match=message):
        rk.export_servable(small, tmp_path / "net", **arguments)
    assert not (tmp_path / "net").exists()


def test_a_model_of_nothing_but_nan_is_not_exported(tmp_path: Path) -> None:
    model = rk.build_cifar_resnet(8, input_shape=(8, 8, 3))
    model.get_layer("logits").bias.assign(np.full(10, np.nan))
    with pytest.raises(UsageError, match="itself returns NaN for random images"):
        rk.export_servable(model, tmp_path / "servable")
    assert list((tmp_path / "servable").glob("*")) == []


def test_export_needs_a_classifier(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no classifier"):
        rk.export_servable(rk.build_resnet(18, include_top=False), tmp_path)


NARROW = {"widths": (8, 16, 32, 64), "stem_width": 8}
LARGE = ["resnet18", "resnet50_v2", "resnet50d", "resnext50_32x4d", "seresnet50"]
"""Of full size, 10 s each; test_export_families.py has small ones of every family."""


@pytest.mark.parametrize(
    ("name", "options"),
    [
        # 2 s each: test_family exports every kind.
        *(pytest.param(*net, marks=pytest.mark.slow) for net in (("resnet18", NARROW), ("cifar_plain20", {}))),
        *(pytest.param(name, {}, marks=pytest.mark.slow) for name in LARGE),
    ],
)
def test_every_kind_of_net_exports(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    """A named network without a card: the servable normalises as ImageNet."""
    model = rk.create_model(name, input_shape=(32, 32, 3), classes=4, **options)
    randomise(model)
    for variable in model.variables:
        if "/se/" in variable.path:  # steep random gates double a rounding error from block to block
            variable.assign(variable * 0.1)
    path = rk.export_servable(model, tmp_path, labels=["a", "b", "c", "d"], top_k=2)
    images = RNG.integers(0, 256, (2, 32, 32, 3), "uint8")
    normal = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    out = tf.saved_model.load(str(path)).signatures["serving_default"](image=tf.constant(images))["probabilities"]
    np.testing.assert_allclose(out, model(normal), atol=1e-4)


@pytest.mark.slow  # 2 s each: test_export_models has more of them
@pytest.mark.parametrize("end", ["softmax", None])
def test_a_classifier_of_anyones_exports(end: str | None, tmp_path: Path) -> None:
    """As a run saves it, with what was put around it."""
    layers = [keras.layers.Conv2D(4, 3), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, activation=end)]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    network = classifier_around(model, rk.ModelCard(labels=("a", "b", "c"))).network
    images = RNG.integers(0, 256, (4, 8, 8, 3), "uint8")
    served: Any = tf.saved_model.load(str(rk.export_servable(network, tmp_path)))
    answers = served.signatures["serving_default"](image=tf.constant(images))["probabilities"]
    np.testing.assert_allclose(answers, network(images), atol=1e-5)


def test_image_format_of_a_net_of_unknown_size() -> None:
    model = rk.build_resnet(18, input_shape=(None, None, 3), classes=2)
    assert image_format(model) == ImageFormat((224, 224), 3, rk.ModelCard(network="resnet18"))
