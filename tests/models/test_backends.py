"""The networks on each backend of Keras: the same answers, and all that needs no TensorFlow."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import resnet_keras as rk

LOGITS = """
import os, sys

import keras
import numpy as np
import resnet_keras as rk
from small import randomise

assert keras.backend.backend() == os.environ["KERAS_BACKEND"]
for name in sys.argv[2:]:
    model, rng = rk.create_model(name, classifier_activation=None), np.random.default_rng(0)
    randomise(model)
    logits = model(rng.normal(size=(2, *model.input_shape[1:])).astype("float32"))
    np.save(f"{sys.argv[1]}/{name}-{keras.backend.backend()}.npy", keras.ops.convert_to_numpy(logits))
    keras.utils.clear_session()
"""
USE = """
import sys

import keras
import numpy as np
import resnet_keras as rk

rng, folder = np.random.default_rng(0), sys.argv[1]
images, labels = rng.normal(size=(32, 8, 8, 3)).astype("float32"), rng.integers(0, 10, 32)
small = {"blocks": (1, 1, 1), "widths": (4, 4, 8), "stem_width": 4, "stochastic_depth": 0.1, "dropout": 0.1}
model = rk.build_cifar_resnet(20, input_shape=(8, 8, 3), **small)
model.get_layer("stage2_block1").rematerialize = True
rk.freeze(model, "stem")
stem = np.asarray(keras.ops.convert_to_numpy(model.get_layer("stem").weights[0]))
model.compile("adamw", "sparse_categorical_crossentropy", metrics=["accuracy"])
history = model.fit(images, labels, batch_size=8, epochs=2, verbose=0).history
assert np.isfinite(history["loss"]).all()
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
assert [tuple(x.shape) for x in rk.feature_pyramid(model)(images[:1]).values()][-1][1:3] == (2, 2)
for name in ("train", "export_servable", "evaluate"):
    try:
        getattr(rk, name)
    except rk.UsageError as error:
        assert f"rk.{name} needs Keras's tensorflow backend" in str(error), error
    else:
        raise AssertionError(name)
"""
BACKENDS = pytest.mark.parametrize(
    "backend",
    [
        pytest.param(name, marks=pytest.mark.skipif(not importlib.util.find_spec(name), reason=f"{name} is missing"))
        for name in ("jax", "torch")
    ],
)


def run(code: str, backend: str, *words: str) -> None:
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr


@pytest.mark.backends
@BACKENDS
@pytest.mark.parametrize("name", rk.list_models())
def test_every_name_gives_the_logits_of_tensorflow(name: str, backend: str, tmp_path: Path) -> None:
    run(LOGITS, "tensorflow", str(tmp_path), name)
    run(LOGITS, backend, str(tmp_path), name)
    theirs, ours = (np.load(tmp_path / f"{name}-{one}.npy") for one in ("tensorflow", backend))
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.backends
@BACKENDS
def test_a_network_is_trained_saved_and_loaded(backend: str, tmp_path: Path) -> None:
    run(USE, backend, str(tmp_path))
