"""Servables of trained networks: what they hold, what a request may hold, and other formats."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import randomise
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2
from test_export_families import cosine, features_of, needs_int8, network_of

import resnet_keras as rk
from resnet_keras.data.sources import open_source
from resnet_keras.data.splits import ArraySplit
from resnet_keras.errors import UsageError
from resnet_keras.export import quantized
from resnet_keras.export.comparison import run_servable
from resnet_keras.export.formats import _run_litert, export_file
from resnet_keras.export.servable import manifest_of

RNG = np.random.default_rng(0)


def small_net(**options: Any) -> keras.Model:
    """Two blocks, the second with a projection."""
    return rk.build_cifar_resnet(
        8, blocks=(1, 1), widths=(8, 16), stem_width=8, shortcut="B", input_shape=(16, 16, 3), **options
    )


def test_pixels_left_to_the_caller_are_normalised(tmp_path: Path) -> None:
    model = small_net()
    randomise(model)
    images = RNG.integers(0, 256, (256, 16, 16, 3), "uint8")
    for dtype in ("float32", "bfloat16", *(["int8"] if quantized.available() else [])):
        more: dict[str, Any] = {"calibration_data": images, "max_accuracy_loss": 100.0} if dtype == "int8" else {}
        folder = rk.export_servable(model, tmp_path / dtype, dtype=dtype, **more)
        got = run_servable(folder, {"features": {"image": images[:4]}})["features"]["features"]
        assert cosine(got.astype("float64"), features_of(model, images[:4])) > 0.999


def test_a_net_without_a_fitting_normalisation_is_refused(tmp_path: Path) -> None:
    model = rk.build_cifar_resnet(8, input_shape=(16, 16, 1))
    with pytest.raises(UsageError, match="says nothing of their normalisation"):
        rk.export_servable(model, tmp_path / "net")


def test_a_net_trained_in_mixed_precision_is_exported_in_float32(tmp_path: Path) -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = rk.build_cifar_resnet(8, input_shape=(16, 16, 3), include_preprocessing=True, norm="group")
    finally:
        keras.config.set_dtype_policy("float32")
    folder = rk.export_servable(model, tmp_path / "net")
    assert manifest_of(folder)["check"]["largest_difference"] < 1e-5


@pytest.fixture(scope="module")
def trained(data_dir: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `.keras` file of a network that has learned the digits, by Keras's own loop."""
    source = open_source("digits", data_dir)
    assert isinstance(source.train, ArraySplit)
    keras.utils.set_random_seed(0)
    card = rk.ModelCard(mean=(0.3,), std=(0.37,), crop=1.0, labels=source.labels)
    model = rk.build_cifar_resnet(20, blocks=(1, 1, 1), input_shape=(8, 8, 1), include_preprocessing=card)
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(source.train.images, source.train.targets, batch_size=32, epochs=3, verbose=0)
    path = tmp_path_factory.mktemp("trained") / "digits.keras"
    model.save(path)
    return path


@pytest.fixture(scope="module")
def exports(trained: Path, data_dir: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A trained net in every dtype that this machine has."""
    folder = tmp_path_factory.mktemp("exports")
    made = {dtype: rk.export_servable(trained, folder / dtype, dtype=dtype) for dtype in ("float32", "bfloat16")}
    if quantized.available():
        made["int8"] = rk.export_servable(
            trained, folder / "int8", dtype="int8", calibration_data="digits", data_dir=data_dir
        )
    return made


def test_exports_of_a_trained_net_are_as_accurate(exports: dict[str, Path], data_dir: str) -> None:
    """On the test split, which calibration has not seen."""
    test: Any = open_source("digits", data_dir).test
    accuracy = {}
    for dtype, folder in exports.items():
        answer = run_servable(folder, {"serving_default": {"image": test.images}})["serving_default"]["probabilities"]
        accuracy[dtype] = np.mean(answer.argmax(-1) == test.targets)
    assert accuracy["float32"] > 0.9
    for dtype in exports:
        assert accuracy[dtype] >= accuracy["float32"] - 0.01, accuracy


@needs_int8
def test_an_int8_export_says_what_it_lost(exports: dict[str, Path]) -> None:
    facts = manifest_of(exports["int8"])["int8"]
    assert 0.999 < facts["share_of_macs"] < 1  # all but the classifier
    assert facts["accuracy"] >= facts["accuracy_float32"] - 0.005
    assert facts["images"] + facts["calibrated_on"] == 1437
    sizes = {dtype: (folder / "saved_model.pb").stat().st_size for dtype, folder in exports.items()}
    assert sizes["int8"] < 0.5 * sizes["float32"]  # the graph is much of so small a net
    assert sizes["bfloat16"] < 0.65 * sizes["float32"]


@needs_int8
def test_int8_that_loses_too_much_is_refused(trained: Path, data_dir: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"int8 loses .* points of accuracy on 718 images, more than -5"):
        rk.export_servable(
            trained,
            tmp_path / "net",
            dtype="int8",
            calibration_data="digits",
            data_dir=data_dir,
            max_accuracy_loss=-5,
        )
    assert not list(tmp_path.iterdir())


def test_where_the_operation_is_missing_bfloat16_is_named(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnet_keras.export.servable.kernel_levels", lambda: None)
    with pytest.raises(UsageError, match="no quantised convolution .* use dtype bfloat16"):
        rk.export_servable(trained, tmp_path / "net", dtype="int8", calibration_data="digits")


@needs_int8
def test_int8_versions_that_come_and_go_keep_their_own_answers(tmp_path: Path) -> None:
    """oneDNN's cache of weights is keyed by where they lie; a version that went may have lain where a new one lies."""
    images = RNG.integers(0, 256, (256, 16, 16, 3), "uint8")
    folders, expected = [], []
    for seed in range(3):
        model = small_net(include_preprocessing=True)
        randomise(model, seed)
        options: dict[str, Any] = {"dtype": "int8", "calibration_data": images, "max_accuracy_loss": 100.0}
        folders.append(rk.export_servable(model, tmp_path / "net", **options))
        expected.append(features_of(model, images[:4]))
    request = {"features": {"image": images[:4]}}
    for turn in range(12):
        sessions = []
        for which in (turn % 3, (turn + 1) % 3):
            session = tf.compat.v1.Session(graph=tf.Graph())
            with session.graph.as_default():
                meta = tf.compat.v1.saved_model.load(session, ["serve"], str(folders[which]))
            sessions.append((which, session, meta.signature_def["features"]))
        for which, session, signature in [*sessions, *reversed(sessions)]:
            feed = {signature.inputs["image"].name: request["features"]["image"]}
            got = session.run(signature.outputs["features"].name, feed)
            assert cosine(got, expected[which]) > 0.99
        for _, session, _ in sessions:
            session.close()


def test_the_graph_is_plain_tensorflow(exports: dict[str, Path]) -> None:
    """No Python, nothing random, no variables, nothing that only XLA can run."""
    for folder in exports.values():
        saved = saved_model_pb2.SavedModel()
        saved.ParseFromString((folder / "saved_model.pb").read_bytes())
        graph = saved.meta_graphs[0].graph_def
        nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
        names = {node.op for node in nodes}
        assert not {name for name in names if re.search("PyFunc|Random|Variable|VarHandle|FusedBatchNorm", name)}
        assert not [node for node in nodes if "_XlaMustCompile" in node.attr]
        assert not (folder / "variables").exists()


def test_what_a_version_folder_holds(exports: dict[str, Path]) -> None:
    for dtype, folder in exports.items():
        assert (folder / "assets" / "labels.txt").read_text().split() == list("0123456789")
        manifest = manifest_of(folder)
        assert (manifest["format_version"], manifest["name"], manifest["dtype"]) == (1, dtype, dtype)
        assert re.fullmatch("[0-9a-f]{64}", manifest["sha256"])
        records = tf.data.TFRecordDataset(str(folder / "assets.extra" / "tf_serving_warmup_requests"))
        requests = {}
        for record in records.as_numpy_iterator():
            request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
            inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
            requests[request.model_spec.signature_name] = inputs
            assert request.model_spec.name == dtype
        assert set(requests) == {"serving_default", "image_bytes", "features", "explain"}
        answers = run_servable(folder, requests)
        assert all(np.isfinite(answers[name][key]).all() for name, key in [("image_bytes", "scores")])


def written(folder: Path, manifest: dict[str, Any]) -> Path:
    path = folder / "assets.extra" / "manifest.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(manifest))
    return folder


def test_a_manifest_of_version_0_1_is_read(tmp_path: Path) -> None:
    """It had no format_version, and counted "pictures"."""
    old = {"name": "digits", "dtype": "int8", "int8": {"agreement": 0.99, "pictures": 718, "percentile": 99.9}}
    manifest = manifest_of(written(tmp_path, old))
    assert manifest["format_version"] == 1
    assert manifest["int8"] == {"agreement": 0.99, "images": 718, "percentile": 99.9}
    saved = manifest_of(Path(__file__).parents[1] / "v0_1" / "servable" / "1")
    assert (saved["format_version"], saved["dtype"]) == (1, "float32")


@pytest.mark.parametrize("version", [2, 0, "1"])
def test_a_manifest_of_a_later_format_is_refused(version: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"manifest.json has format_version {version!r}, .* reads up to 1"):
        manifest_of(written(tmp_path, {"format_version": version}))


def test_one_bad_image_takes_nothing_from_the_others(exports: dict[str, Path], digit_png: Path) -> None:
    good = digit_png.read_bytes()
    alone = run_servable(exports["float32"], {"image_bytes": {"image_bytes": [good]}})["image_bytes"]
    mixed = run_servable(exports["float32"], {"image_bytes": {"image_bytes": [b"junk", good, good[:40], good, b""]}})
    answer = mixed["image_bytes"]
    for i in (1, 3):
        np.testing.assert_allclose(answer["probabilities"][i], alone["probabilities"][0], atol=1e-6)
        assert (answer["labels"][i] == alone["labels"][0]).all()
    for i in (0, 2, 4):
        assert np.isnan(answer["probabilities"][i]).all()
        assert np.isnan(answer["scores"][i]).all()
        assert (answer["labels"][i] == b"").all()


@pytest.mark.parametrize(
    ("signature", "inputs", "words"),
    [
        ("image_bytes", {"image_bytes": [b"junk", b""]}, "no image can be read"),
        ("image_bytes", {"image_bytes": np.zeros((0,), object)}, "image_bytes holds no images"),
        ("image_bytes", {"image_bytes": [[b"a"]]}, "shape"),
        ("serving_default", {"image": np.zeros((0, 8, 8, 1), "uint8")}, "image holds no images"),
        ("serving_default", {"image": np.zeros((1, 9, 8, 1), "uint8")}, "shape"),
        ("features", {"image": np.zeros((), "uint8")}, "shape"),
    ],
)
def test_wrong_requests_are_invalid_arguments(
    exports: dict[str, Path], signature: str, inputs: dict[str, Any], words: str
) -> None:
    for folder in exports.values():
        with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=words):
            run_servable(folder, {signature: inputs})


def test_a_layer_that_nothing_here_knows_is_called_as_it_is(tmp_path: Path) -> None:
    """In inference: Keras's augmentation augments by default."""
    inputs = keras.Input((16, 16, 3))
    augmented = keras.layers.RandomBrightness(0.5, value_range=(0, 255))(inputs)
    base = rk.build_cifar_resnet(8, input_tensor=augmented, include_preprocessing=True, include_top=False)
    x = keras.layers.LayerNormalization()(base.output)
    x = keras.layers.Add()([keras.layers.Conv2D(64, 2, padding="same")(x), x])
    x = keras.layers.GlobalMaxPooling2D()(keras.layers.Softmax()(x))
    model = keras.Model(base.input, keras.layers.Dense(3, "softmax", name="logits")(x))
    randomise(model)
    images = RNG.integers(0, 256, (2, 16, 16, 3), "uint8")
    for dtype in ("float32", "bfloat16"):
        got = run_servable(rk.export_servable(model, tmp_path / dtype, dtype=dtype), {"features": {"image": images}})
        assert cosine(got["features"]["features"], features_of(model, images)) > 0.9999


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_litert_answers_as_the_model_does(trained: Path, data_dir: str, dtype: str, tmp_path: Path) -> None:
    """On the test split: float32 to rounding, LiteRT's own int8 by accuracy."""
    more: dict[str, Any] = {"calibration_data": "digits", "data_dir": data_dir} if dtype == "int8" else {}
    path = export_file(trained, tmp_path / "net.tflite", "litert", dtype=dtype, **more)
    test: Any = open_source("digits", data_dir).test
    answer = _run_litert(path.read_bytes(), test.images)
    if dtype == "float32":
        expected = rk.load_model(trained)(test.images.astype("float32"), training=False)
        np.testing.assert_allclose(answer, expected, atol=1e-5)
    assert np.mean(answer.argmax(-1) == test.targets) > 0.9
    assert [child.name for child in tmp_path.iterdir()] == ["net.tflite"]


def test_onnx_answers_as_the_model_does(tmp_path: Path) -> None:
    pytest.importorskip("tf2onnx", reason="tf2onnx is not here: pip install 'resnet-keras[onnx]'", exc_type=ImportError)
    runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not here")
    model, images = network_of("resnet50d")
    path = export_file(model, tmp_path / "net.onnx", "onnx")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (answer,) = session.run(["probabilities"], {"image": images})
    np.testing.assert_allclose(answer, model(images.astype("float32"), training=False), atol=1e-5)


@pytest.mark.parametrize(
    ("format", "options", "words"),
    [
        ("coreml", {}, "unknown format 'coreml'; choose from onnx, litert"),
        ("onnx", {"dtype": "int8"}, "unknown dtype for onnx 'int8'"),
        ("litert", {"dtype": "int8"}, "int8 needs calibration_data"),
        ("litert", {"calibration_data": "digits"}, "int8 needs calibration_data; leave it out with any other dtype"),
    ],
)
def test_wrong_formats(trained: Path, tmp_path: Path, format: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        export_file(trained, tmp_path / "net", format, **options)
    assert not list(tmp_path.iterdir())


def test_without_its_converter_onnx_says_what_to_install(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tf2onnx.convert", None)
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(UsageError, match=r"tf2onnx.convert is not installed; pip install 'resnet-keras\[onnx\]'"):
        export_file(trained, tmp_path / "net.onnx", "onnx")


def test_a_small_net_without_a_card_answers_a_file_as_its_pixels(tmp_path: Path) -> None:
    """The file was cropped as ImageNet's images are, and the answers were 0.18 apart."""
    keras.utils.set_random_seed(0)
    model = rk.build_cifar_resnet(8, blocks=(1,), widths=(8,), stem_width=8)
    randomise(model)
    folder = rk.export_servable(model, tmp_path / "cifar")
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), "uint8")
    encoded = tf.io.encode_png(image).numpy()
    requests = {"serving_default": {"image": image[None]}, "image_bytes": {"image_bytes": np.array([encoded], object)}}
    pixels, file = (answer["probabilities"] for answer in run_servable(folder, requests).values())
    assert pixels.std() > 0.01
    np.testing.assert_allclose(file, pixels, atol=1e-6)
