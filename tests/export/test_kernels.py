"""Kernels in files of their own: the servable answers as with constants, and nothing is left of it unseen."""

import json
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from serving_models import running
from tensorflow.core.protobuf import saved_model_pb2

import resnet_keras as rk
from resnet_keras.errors import UsageError
from resnet_keras.export import kernels
from resnet_keras.export.comparison import run_servable
from resnet_keras.export.integrity import check_files
from resnet_keras.export.lowering import lower
from resnet_keras.export.operations import Convolution, Dense
from resnet_keras.export.servable import manifest_of

FILES = {"variables/variables.data-00000-of-00001", "variables/variables.index"}
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), "uint8")


def resnet() -> keras.Model:
    narrow = {"blocks": (1, 1), "widths": (8, 16), "stem_width": 8}
    return rk.build_resnet(18, classes=3, input_shape=(32, 32, 3), include_preprocessing=True, **narrow)


def vit() -> keras.Model:
    fields = {"blocks": 2, "width": 24, "heads": 3}
    return rk.build_vit("s16", classes=3, input_shape=(32, 32, 3), include_preprocessing=True, **fields)


def convnext() -> keras.Model:
    fields = {"blocks": (1, 1, 1, 1), "widths": (8, 16, 16, 24)}
    return rk.build_convnext("tiny", classes=3, input_shape=(32, 32, 3), include_preprocessing=True, **fields)


@pytest.fixture
def no_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every kernel were large."""
    monkeypatch.setattr(kernels, "MOST", {Dense: 0, Convolution: 0})
    monkeypatch.setattr(kernels, "LEAST", 1)


@pytest.mark.usefixtures("no_constants")
@pytest.mark.parametrize("build", [resnet, vit, convnext])
@pytest.mark.parametrize(("dtype", "near"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_answers_are_the_models(build: Callable[[], keras.Model], dtype: str, near: float, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    model = build()
    folder = rk.export_servable(model, tmp_path / "net", dtype=dtype, for_serving="2.19")
    png = tf.io.encode_png(IMAGES[0]).numpy()
    requests = {"serving_default": {"image": IMAGES}, "features": {"image": IMAGES}}
    answers = run_servable(folder, {**requests, "image_bytes": {"image_bytes": [png]}})
    expected = np.asarray(model(IMAGES.astype("float32"), training=False))
    np.testing.assert_allclose(answers["serving_default"]["probabilities"], expected, atol=near)
    np.testing.assert_allclose(answers["image_bytes"]["probabilities"], expected[:1], atol=near)
    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    stored = [node for node in saved.meta_graphs[0].graph_def.node if node.op == "VarHandleOp"]
    with_kernels = [one for one in kernels.in_order(*lower(model)) if isinstance(one, Convolution | Dense)]
    assert len(with_kernels) / 2 < len(stored) <= len(with_kernels)
    assert "ReadVariableOp" in manifest_of(folder)["graph"]["operations"]
    (tmp_path / "a.png").write_bytes(png)
    assert rk.predict(folder, [tmp_path / "a.png"])[0].labels


@pytest.mark.usefixtures("no_constants")
def test_signatures_that_are_run_together_answer_as_alone(tmp_path: Path) -> None:
    folder = rk.export_servable(resnet(), tmp_path / "net")
    requests = {"features": {"image": IMAGES}, "serving_default": {"image": IMAGES}}
    together = run_servable(folder, requests)
    assert list(together) == list(requests)
    for name, request in requests.items():
        alone = run_servable(folder, {name: {"image": request["image"].copy()}})[name]
        assert {key: value.tolist() for key, value in alone.items()} == {
            key: value.tolist() for key, value in together[name].items()
        }


@pytest.mark.usefixtures("no_constants")
def test_the_digests_cover_the_files(tmp_path: Path) -> None:
    folder = rk.export_servable(resnet(), tmp_path / "net")
    assert set(manifest_of(folder)["files"]) >= FILES
    assert check_files(folder) == 5
    path = folder / "variables" / "variables.data-00000-of-00001"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UsageError, match="variables.data-00000-of-00001 is not as it was exported"):
        check_files(folder)
    path.unlink()
    with pytest.raises(UsageError, match="variables.data-00000-of-00001 is missing"):
        check_files(folder)


@pytest.mark.usefixtures("no_constants")
def test_the_same_model_makes_the_same_files(tmp_path: Path) -> None:
    model = resnet()
    first, second = (manifest_of(rk.export_servable(model, tmp_path / "net"))["files"] for _ in range(2))
    assert {name: first[name] for name in FILES} == {name: second[name] for name in FILES}


@pytest.mark.usefixtures("no_constants")
def test_versions_in_one_process_keep_their_own_kernels(tmp_path: Path) -> None:
    """Their variables have the same names."""
    models = [resnet() for _ in range(2)]
    folders = [rk.export_servable(model, tmp_path / "net") for model in models]
    functions = [tf.saved_model.load(str(folder)).signatures["serving_default"] for folder in folders]
    for function, model in zip(functions, models, strict=True):
        expected = np.asarray(model(IMAGES.astype("float32"), training=False))
        np.testing.assert_allclose(function(image=tf.constant(IMAGES))["probabilities"], expected, atol=1e-5)


@pytest.mark.usefixtures("no_constants")
def test_the_server_answers_and_swaps_versions(tmp_path: Path) -> None:
    models = [resnet() for _ in range(2)]
    body = {"instances": IMAGES.tolist()}
    rk.export_servable(models[0], tmp_path / "net")
    with running(model_name="net", model_base_path=str(tmp_path / "net")) as address:
        before = address.post("/v1/models/net:predict", body).json()["predictions"]
        rk.export_servable(models[1], tmp_path / "net")
        assert address.server.core is not None
        address.server.core.manager.look()
        after = address.post("/v1/models/net/versions/2:predict", body).json()["predictions"]
    for got, model in zip((before, after), models, strict=True):
        expected = np.asarray(model(IMAGES.astype("float32"), training=False))
        np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.usefixtures("no_constants")
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.raw_ops, "SaveV2", full)
    with pytest.raises(UsageError, match="No space left on device"):
        rk.export_servable(resnet(), tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_kinds_are_stored_by_their_own_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    def stored(model: keras.Model) -> set[type]:
        return {type(one) for one in kernels.kernels_of(lower(model), tf.float32).stored}

    networks = resnet(), vit()
    assert [stored(network) for network in networks] == [set(), set()]
    monkeypatch.setattr(kernels, "LEAST", 1)
    monkeypatch.setattr(kernels, "MOST", {Dense: 2**10, Convolution: 2**27})
    assert [stored(network) for network in networks] == [set(), {Dense}]
    monkeypatch.setattr(kernels, "MOST", {Dense: 2**27, Convolution: 2**10})
    assert stored(networks[0]) == {Convolution}
    # The stem's kernel is in its bias too: it stays a constant.
    stem = next(one for one in kernels.in_order(*lower(networks[0])) if isinstance(one, Convolution))
    assert stem.centre is not None


def test_a_small_network_is_one_file(tmp_path: Path) -> None:
    folder = rk.export_servable(resnet(), tmp_path / "net")
    assert not (folder / "variables").exists()
    assert json.loads((folder / "assets.extra" / "manifest.json").read_text())["files"].keys().isdisjoint(FILES)
