"""The networks on each backend of Keras: the same answers, and all that needs no TensorFlow."""

import functools
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import resnet_keras as rk

LOGITS = """
import gc, os, sys

import keras
import numpy as np
import resnet_keras as rk
from small import randomise

assert keras.backend.backend() == os.environ["KERAS_BACKEND"]
for name in sys.argv[2:]:
    model, rng = rk.create_model(name, classifier_activation=None), np.random.default_rng(0)
    randomise(model)
    if any("/se/" in weight.path for weight in model.weights):
        # Else gates get inputs of thousands, the last bits of which are all of a sigmoid's range.
        for weight in model.weights:
            weight.assign(weight * 0.3 if weight.name == "gamma" else weight)
    logits = model(rng.normal(size=(2, *model.input_shape[1:])).astype("float32"))
    np.save(f"{sys.argv[1]}/{name}.npy", keras.ops.convert_to_numpy(logits))
    del model, logits
    keras.utils.clear_session()
    gc.collect()
"""
USE = """
import sys

import keras
import numpy as np
import resnet_keras as rk

rng, folder = np.random.default_rng(0), sys.argv[1]
images, labels = rng.normal(size=(32, 8, 8, 3)).astype("float32"), rng.integers(0, 10, 32)
small = {"blocks": (1, 1, 1), "widths": (4, 4, 8), "stem_width": 4, "stochastic_depth": 0.1, "dropout": 0.1}
losses = []
for rematerialize in (False, True):
    keras.utils.set_random_seed(0)
    model = rk.build_cifar_resnet(20, input_shape=(8, 8, 3), **small)
    for block in ("stage1_block1", "stage2_block1"):
        model.get_layer(block).rematerialize = rematerialize
    rk.freeze(model, "stem")
    stem = np.array(keras.ops.convert_to_numpy(model.get_layer("stem").weights[0]))
    model.compile("adamw", "sparse_categorical_crossentropy", metrics=["accuracy"])
    losses.append(model.fit(images, labels, batch_size=8, epochs=2, verbose=0).history["loss"])
assert np.isfinite(losses).all()
np.testing.assert_allclose(*losses, rtol=1e-5)
np.testing.assert_array_equal(keras.ops.convert_to_numpy(model.get_layer("stem").weights[0]), stem)
model.save(f"{folder}/model.keras")
again = rk.load_model(f"{folder}/model.keras")
assert isinstance(again, rk.Model)
predicted = model.predict(images, verbose=0)
np.testing.assert_allclose(again.predict(images, verbose=0), predicted, rtol=1e-5, atol=1e-6)
rk.save_weights(model, f"{folder}/weights.npz")
twin = rk.build_cifar_resnet(20, input_shape=(8, 8, 3), **small)
rk.load_weights(twin, f"{folder}/weights.npz")
np.testing.assert_allclose(twin.predict(images, verbose=0), predicted, rtol=1e-5, atol=1e-6)
assert tuple(rk.feature_pyramid(model)(images[:1])["stage3"].shape) == (1, 2, 2, 8)
for name in ("train", "export_servable", "evaluate"):
    try:
        getattr(rk, name)
    except rk.UsageError as error:
        assert f"rk.{name} needs Keras's tensorflow backend" in str(error), error
    else:
        raise AssertionError(name)
"""
LAYER_NORM = """
import sys

import keras
import numpy as np
import resnet_keras as rk

rng, folder, shape = np.random.default_rng(0), sys.argv[1], (32, 32, 3)
images, labels = rng.normal(size=(32, *shape)).astype("float32"), rng.integers(0, 5, 32)
nets = {
    "tiny": (rk.build_convnext, {"blocks": (1, 1), "widths": (16, 32), "patch_size": 4}),
    "ti16": (rk.build_vit, {"blocks": 1, "width": 32, "heads": 2, "patch_size": 4, "image_size": 32}),
}
for size, (build, options) in nets.items():
    both = []
    for rematerialize in (False, True):
        keras.utils.set_random_seed(0)
        model = build(size, classes=5, input_shape=shape, stochastic_depth=0.1, **options)
        blocks = [layer for layer in model.layers if hasattr(layer, "rematerialize")]
        assert blocks
        for block in blocks:
            block.rematerialize = rematerialize
        model.compile("adamw", "sparse_categorical_crossentropy")
        before = [np.array(keras.ops.convert_to_numpy(weight)) for weight in model.trainable_weights]
        both.append(model.fit(images, labels, batch_size=8, epochs=2, verbose=0).history["loss"])
        assert np.isfinite(both).all(), both
        for old, weight in zip(before, model.trainable_weights):
            assert (old != keras.ops.convert_to_numpy(weight)).any(), weight.path
    np.testing.assert_allclose(*both, rtol=1e-5)
    model.save(f"{folder}/{size}.keras")
    predicted = model.predict(images, verbose=0)
    again = rk.load_model(f"{folder}/{size}.keras")
    np.testing.assert_allclose(again.predict(images, verbose=0), predicted, rtol=1e-5, atol=1e-6)
"""
PARALLEL = """
import keras
import numpy as np
import resnet_keras as rk

rng = np.random.default_rng(0)
images, labels = rng.normal(size=(32, 8, 8, 3)).astype("float32"), rng.integers(0, 10, 32)


def trained():
    keras.utils.set_random_seed(0)
    model = rk.build_cifar_resnet(20, input_shape=(8, 8, 3), blocks=(1, 1, 1), widths=(4, 4, 8), stem_width=4)
    model.compile(keras.optimizers.SGD(0.1, 0.9), "sparse_categorical_crossentropy")
    losses = model.fit(images, labels, batch_size=8, epochs=2, shuffle=False, verbose=0).history["loss"]
    return losses, [keras.ops.convert_to_numpy(weight) for weight in model.weights], model


losses, weights, _ = trained()
devices = keras.distribution.list_devices()
assert len(devices) == 2, devices
keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
spread_losses, spread_weights, model = trained()
assert len(model.weights[0].value.sharding.device_set) == 2
np.testing.assert_allclose(spread_losses, losses, rtol=1e-4)
for ours, theirs in zip(spread_weights, weights):
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
"""
BACKENDS = pytest.mark.parametrize(
    "backend",
    [
        pytest.param(name, marks=pytest.mark.skipif(not importlib.util.find_spec(name), reason=f"{name} is missing"))
        for name in ("jax", "torch")
    ],
)


def run(code: str, backend: str, *words: str, **variables: str) -> None:
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path, **variables}
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def logits(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder of the logits of every name that is asked for, from one process for each backend."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    asked = {str(item.callspec.params["name"]): None for item in items if "logits" in item.fixturenames}

    @functools.cache
    def of(backend: str) -> Path:
        folder = tmp_path_factory.mktemp(backend)
        run(LOGITS, backend, str(folder), *asked)
        return folder

    return of


@pytest.mark.backends
@BACKENDS
@pytest.mark.parametrize("name", rk.list_models())
def test_every_name_gives_the_logits_of_tensorflow(name: str, backend: str, logits: Callable[[str], Path]) -> None:
    theirs, ours = (np.load(logits(one) / f"{name}.npy") for one in ("tensorflow", backend))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.backends
@BACKENDS
def test_a_network_is_trained_saved_and_loaded(backend: str, tmp_path: Path) -> None:
    run(USE, backend, str(tmp_path))


@pytest.mark.backends
@BACKENDS
def test_a_convnext_and_a_vit_are_trained_saved_and_loaded(backend: str, tmp_path: Path) -> None:
    run(LAYER_NORM, backend, str(tmp_path))


@pytest.mark.backends
@pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="jax is missing")
def test_a_network_trains_on_two_devices_of_jax_as_on_one() -> None:
    run(PARALLEL, "jax", XLA_FLAGS="--xla_force_host_platform_device_count=2")
