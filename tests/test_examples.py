"""The examples, small: they train, save and export, and use what is public only."""

import ast
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

import resnet_keras as rk
from resnet_keras.training.devices import make_strategy

EXAMPLES = Path(rk.__file__).parents[1] / "examples"
CLASSES = ("blue", "green", "red")
RNG = np.random.default_rng(0)


def example(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name=name)


def coloured(label: int, side: int) -> np.ndarray:
    """An image whose class is its brightest channel."""
    pixels = RNG.integers(0, 120, (side, side, 3), "uint8")
    pixels[..., 2 - label] += 120
    return pixels


@pytest.fixture
def prepared_cifar10(tmp_path: Path) -> Path:
    """A folder of TensorFlow Datasets with a CIFAR-10 of 96 images of ours, as its own builder would read them."""
    real = tfds.builder("cifar10", data_dir=tmp_path)

    with tfds.core.registered.skip_registration():

        class Cifar10(tfds.core.GeneratorBasedBuilder):
            VERSION = real.version

            def _info(self) -> tfds.core.DatasetInfo:
                keys = ("image", "label")
                return tfds.core.DatasetInfo(builder=self, features=real.info.features, supervised_keys=keys)

            def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
                return {"train": self._generate_examples(64), "test": self._generate_examples(32)}

            def _generate_examples(self, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
                for i in range(count):
                    yield f"{i}", {"id": f"{i}", "image": coloured(i % 3, 32), "label": i % 3}

    Cifar10(data_dir=tmp_path).download_and_prepare()
    return tmp_path


@pytest.mark.guides
@pytest.mark.parametrize("replicas", [1, 2])
def test_cifar10_trains_and_saves(
    replicas: int,
    prepared_cifar10: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On one device, and on two, which are logical CPUs here and pass for GPUs."""
    if replicas > 1:
        strategy = make_strategy("mirrored")
        monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda: strategy)
        monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: tf.config.get_visible_devices("CPU") * 2)
    output = tmp_path / "model.keras"
    words = ["--data-dir", str(prepared_cifar10), "--output", str(output), "--batch-size", "16", "--limit", "32"]
    result = example("cifar10")["main"]([*words, "--epochs", "2"])
    said = capsys.readouterr().out
    assert f"{replicas} replica(s), 2 steps an epoch" in said
    assert f"test accuracy {result['accuracy']:.4f}" in said
    model = keras.saving.load_model(output)
    assert isinstance(model, rk.Model)
    assert model.optimizer.iterations == 4
    test: Any = tfds.load("cifar10", split="test", as_supervised=True, data_dir=prepared_cifar10).take(32).batch(32)
    assert model.evaluate(test, verbose=0, return_dict=True)["loss"] == pytest.approx(result["loss"], rel=1e-4)


def test_cifar10_decays_kernels_only_and_warms_up() -> None:
    names = example("cifar10")
    model = names["compiled"](names["parse"](["--batch-size", "256"]), 1000)
    optimizer: Any = model.optimizer
    optimizer.build(model.trainable_variables)
    decayed = {v.path for v in model.trainable_variables if optimizer._use_weight_decay(v)}
    assert decayed == {v.path for v in model.trainable_variables if v.name == "kernel"}
    rates = [float(optimizer._learning_rate(step)) for step in (0, 100, 1000)]
    assert rates == pytest.approx([0.0, 0.2, 0.0])


def test_cifar10_refuses_less_than_a_batch(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        example("cifar10")["main"](["--limit", "100"])
    assert end.value.code == 2
    assert "--limit 100 is less than a batch; give 128 or more" in capsys.readouterr().err


@pytest.mark.guides
def test_finetune_trains_the_head_then_all_but_the_norms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for label, name in enumerate(CLASSES):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(10):
            png = tf.io.encode_png(coloured(label, 40)).numpy()
            (tmp_path / "images" / name / f"{i}.png").write_bytes(png)
    weights: list[dict[str, np.ndarray]] = []

    def note(model: keras.Model) -> None:
        weights.append({weight.path: np.array(weight.numpy()) for weight in model.weights})

    class Noted(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            note(self.model)

    plain_fit = rk.Model.fit
    monkeypatch.setattr(rk.Model, "fit", lambda self, *a, **k: plain_fit(self, *a, **k, callbacks=[Noted()]))
    words = [str(tmp_path / "images"), "--epochs", "1", "--batch-size", "8", "--output", str(tmp_path / "out")]
    model, exported = example("finetune")["main"](words)
    note(model)

    start, between, end = weights
    own = rk.build_cifar_resnet(20, weights="cifar10-jpeg", include_top=False)
    assert [weight.shape for weight in own.weights] == [weight.shape for weight in model.weights[:-2]]
    for path, trained in zip(start, own.get_weights(), strict=False):
        np.testing.assert_array_equal(start[path], trained, err_msg=path)  # begins with the pretrained weights
    changed = {path for path in start if not np.array_equal(start[path], between[path])}
    assert changed == {"logits/kernel", "logits/bias"}
    changed = {path for path in start if not np.array_equal(between[path], end[path])}
    assert changed == {path for path in start if "/norm/" not in path}

    images = np.stack([coloured(i % 3, 32) for i in range(4)])
    saved = keras.saving.load_model(tmp_path / "out" / "model.keras")
    np.testing.assert_array_equal(saved(images), model(images))
    assert not rk.model_card(saved).labels  # the ten of CIFAR-10 are not these classes
    served = tf.saved_model.load(str(exported)).signatures["serving_default"](image=tf.constant(images))
    np.testing.assert_allclose(served["probabilities"], tf.nn.softmax(model(images)), atol=1e-4)
    assert (exported / "assets" / "labels.txt").read_text().split() == list(CLASSES)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_one_page_of_public_names(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) < 100
    tree = ast.parse(text)
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    libraries = {"resnet_keras", "keras", "tensorflow", "tensorflow_datasets"}
    assert modules <= libraries | {"argparse", "collections.abc", "pathlib", "typing"}
    used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and getattr(n.value, "id", "") == "rk"}
    assert used <= set(rk.__all__)
