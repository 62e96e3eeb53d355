"""What Keras's guides do with a network of keras.applications, done with ours: only the import differs."""

import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf
from small import randomise

import resnet_keras as rk
from resnet_keras.errors import UsageError

pytestmark = pytest.mark.guides

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 48)
# Raw pixels that say their class.
IMAGES = (RNG.integers(0, 100, (48, 16, 16, 3)) + 60 * LABELS[:, None, None, None]).astype("float32")
SHORT = {"blocks": (1, 1, 1), "widths": (16, 16, 32), "stem_width": 16, "shortcut": "B"}
LOSS = keras.losses.SparseCategoricalCrossentropy


def ResNet(**arguments: Any) -> keras.Model:  # noqa: N802  (as keras.applications calls its own)
    """A short network, with statistics as a training leaves them, in place of one with published weights."""
    keras.utils.set_random_seed(0)
    common = {"input_shape": (16, 16, 3), "include_preprocessing": True, **SHORT}
    model = rk.build_cifar_resnet(8, **{**common, **arguments})
    randomise(model)
    return model


def values(model: Any) -> dict[str, np.ndarray]:
    return {weight.path: np.array(weight.numpy()) for weight in model.weights}


def moved(before: dict[str, np.ndarray], model: Any) -> set[str]:
    """The paths of the weights that are not to the bit what they were."""
    return {path for path, value in values(model).items() if not np.array_equal(value, before[path])}


def fit(model: keras.Model, rate: float = 0.01, epochs: int = 3) -> None:
    """Compile and train; the loss falls."""
    model.compile(keras.optimizers.Adam(rate), LOSS(from_logits=True), metrics=["accuracy"])
    losses = model.fit(IMAGES, LABELS, batch_size=16, epochs=epochs, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_the_builders_take_the_arguments_of_keras_applications() -> None:
    theirs = inspect.signature(keras.applications.ResNet50).parameters
    for build in (rk.build_resnet, rk.build_cifar_resnet):
        ours = inspect.signature(build).parameters
        assert set(theirs) <= set(ours)
        same = set(theirs) - {"weights", "name", *({"classes", "input_shape"} if build is not rk.build_resnet else ())}
        assert {name: ours[name].default for name in same} == {name: theirs[name].default for name in same}


def test_features_with_pooling_feed_a_classifier() -> None:
    """Features are computed once, and a small model learns from them."""
    backbone = ResNet(include_top=False, pooling="avg")
    before = values(backbone)
    features = backbone.predict(IMAGES, verbose=0)
    assert features.shape == (48, 32)
    maps = ResNet(include_top=False)
    maps.set_weights(backbone.get_weights())
    np.testing.assert_allclose(features, maps.predict(IMAGES, verbose=0).mean((1, 2)), rtol=1e-5)
    largest = ResNet(include_top=False, pooling="max")
    largest.set_weights(backbone.get_weights())
    np.testing.assert_allclose(largest(IMAGES), np.max(maps(IMAGES), (1, 2)), rtol=1e-5)

    classifier = keras.Sequential([keras.Input((32,)), keras.layers.Dense(3)])
    classifier.compile(keras.optimizers.Adam(0.01), LOSS(from_logits=True))
    losses = classifier.fit(features, LABELS, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert not moved(before, backbone)


def test_transfer_learning_in_two_phases() -> None:
    """A frozen network keeps its weights and statistics to the bit; an unfrozen one with frozen norms, the norms.

    Keras's `fit` overrules the `training=False` of the call (keras#20285), in keras.applications too.
    """
    backbone = ResNet(include_top=False)
    backbone.trainable = False
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.RandomFlip("horizontal")(inputs)
    x = backbone(x, training=False)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.1)(x)
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    assert len(model.trainable_weights) == 2

    before, head = values(backbone), model.layers[-1].get_weights()
    fit(model)
    assert not moved(before, backbone)
    assert all((old != new).any() for old, new in zip(head, model.layers[-1].get_weights(), strict=True))

    backbone.trainable = True
    rk.freeze_norms(backbone)
    fit(model, rate=1e-3)
    assert moved(before, backbone) == {path for path in before if "/norm/" not in path}


def test_fine_tuning_the_last_blocks() -> None:
    """A new head on the network's output; then the layers before a place stay frozen."""
    backbone = ResNet(include_top=False)
    x = keras.layers.GlobalAveragePooling2D()(backbone.output)
    model = keras.Model(inputs=backbone.input, outputs=keras.layers.Dense(3, name="new_head")(x))
    for layer in backbone.layers:
        layer.trainable = False
    before = values(model)
    fit(model)
    assert moved(before, model) == {"new_head/kernel", "new_head/bias"}

    place = [layer.name for layer in model.layers].index("stage3_block1")
    for layer in model.layers[place:]:
        layer.trainable = True
    before = values(model)
    fit(model, rate=1e-3)
    changed = moved(before, model)
    assert {path.split("/")[0] for path in changed} == {"stage3_block1", "new_head"}
    assert {path for path in before if path.startswith("stage3_block1")} <= changed  # its statistics too, as in Keras


def test_features_of_a_layer_in_the_middle() -> None:
    backbone = ResNet(classes=3)
    extractor = keras.Model(inputs=backbone.input, outputs=backbone.get_layer("stage2_block1").output)
    features = extractor.predict(IMAGES, verbose=0)
    assert features.shape == (48, 8, 8, 16)
    np.testing.assert_allclose(features, rk.feature_pyramid(backbone)(IMAGES)["stage2"], rtol=1e-4, atol=1e-5)

    every = keras.Model(backbone.input, [layer.output for layer in backbone.layers])
    outputs = every(IMAGES)
    np.testing.assert_array_equal(outputs[-1], backbone(IMAGES))
    x = tf.constant(IMAGES)
    for layer, output in zip(backbone.layers[1:], outputs[1:], strict=True):  # the first is the input
        x = layer(x)
        np.testing.assert_allclose(output, x, rtol=1e-5, atol=1e-5, err_msg=layer.name)


def test_a_network_on_a_tensor_of_ones_own() -> None:
    """`input_tensor=`, the output of a layer here, and `classes=`."""
    image = keras.Input((32, 32, 3), name="camera")
    halved = keras.layers.AveragePooling2D(2)(image)
    model = ResNet(input_tensor=halved, input_shape=None, classes=5)
    assert model.input is image
    assert model.output_shape == (None, 5)
    plain = ResNet(classes=5)
    plain.set_weights(model.get_weights())
    large = IMAGES.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(model(large), plain(IMAGES), rtol=1e-5)
    np.testing.assert_allclose(np.sum(model(large), -1), 1, rtol=1e-5)


def test_pretrained_weights_have_classes_of_their_own() -> None:
    """As in keras.applications: other classes only without the head."""
    with pytest.raises(UsageError, match="the head of cifar10-jpeg does not fit") as refused:
        rk.build_cifar_resnet(20, weights="cifar10-jpeg", classes=3)
    assert "\n" not in str(refused.value)
    backbone = rk.build_cifar_resnet(20, weights="cifar10-jpeg", include_top=False, classes=3)
    assert backbone.output_shape == (None, 8, 8, 64)


def test_a_clone_answers_as_the_model_does_and_learns_by_itself() -> None:
    model = ResNet(classes=3, classifier_activation=None)
    model.get_layer("stage1_block1").trainable = False
    nested = keras.Sequential([keras.Input((16, 16, 3)), ResNet(include_top=False, pooling="avg")])
    for original, new_input in ((model, None), (model, keras.Input((16, 16, 3))), (nested, None)):
        clone: Any = keras.models.clone_model(original, input_tensors=new_input)
        clone.set_weights(original.get_weights())
        np.testing.assert_array_equal(clone(IMAGES), original(IMAGES))
        assert [w.path for w in clone.trainable_weights] == [w.path for w in original.trainable_weights]
    clone: Any = keras.models.clone_model(model)
    assert isinstance(clone, rk.Model)
    clone.set_weights(model.get_weights())
    before = values(model)
    fit(clone)
    assert not moved(before, model)
    assert moved(before, clone)


def test_a_network_in_a_sequential_model(tmp_path: Path) -> None:
    backbone = ResNet(include_top=False, pooling="avg")
    backbone.trainable = False
    model = keras.Sequential([backbone, keras.layers.Dense(3)])
    before = values(backbone)
    fit(model)
    assert not moved(before, backbone)
    model.save(tmp_path / "model.keras")
    again: Any = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(IMAGES), model(IMAGES))
    assert len(again.trainable_weights) == 2
    assert isinstance(again.layers[0], rk.Model)


class Classifier(keras.Model):
    """As a user subclasses Keras's model."""

    def __init__(self, backbone: keras.Model) -> None:
        super().__init__()
        self.backbone, self.head = backbone, keras.layers.Dense(3)

    def call(self, images: Any, training: bool | None = None) -> Any:
        return self.head(self.backbone(images, training=training))


def test_a_network_in_a_subclassed_model(tmp_path: Path) -> None:
    model = Classifier(ResNet(include_top=False, pooling="avg"))
    before = values(model.backbone)
    fit(model, rate=1e-3)
    assert moved(before, model.backbone) == set(before)  # the statistics too
    model.save_weights(tmp_path / "model.weights.h5")
    again = Classifier(ResNet(include_top=False, pooling="avg"))
    again(IMAGES[:1])
    again.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(again(IMAGES), model(IMAGES))


@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")  # KerasTuner has not built it
@pytest.mark.filterwarnings("ignore:(getName|currentThread)\\(\\) is deprecated:DeprecationWarning")
def test_a_search_of_keras_tuner_over_a_build_function(tmp_path: Path) -> None:
    def build(hp: keras_tuner.HyperParameters) -> keras.Model:
        model = ResNet(classes=3, activation=hp.Choice("activation", ["relu", "gelu"]))
        rate = hp.Float("learning_rate", 1e-3, 1e-2, sampling="log")
        model.compile(keras.optimizers.Adam(rate), LOSS(), metrics=["accuracy"])
        return model

    tuner = keras_tuner.RandomSearch(
        hypermodel=build, objective="val_loss", max_trials=2, seed=0, directory=tmp_path, project_name="search"
    )
    tuner.search(IMAGES[:32], LABELS[:32], validation_data=(IMAGES[32:], LABELS[32:]), epochs=1, verbose=0)
    [trial] = tuner.oracle.get_best_trials(1)
    assert len(tuner.oracle.trials) == 2
    best: Any = tuner.get_best_models(1)[0]
    assert isinstance(best, rk.Model)
    score = best.evaluate(IMAGES[32:], LABELS[32:], verbose=0, return_dict=True)["loss"]
    assert score == pytest.approx(trial.score, rel=1e-4)


def test_plot_model_draws_every_layer(tmp_path: Path) -> None:
    pytest.importorskip("pydot", reason="keras.utils.plot_model needs pydot, which is not installed")
    model = ResNet(classes=3)
    dot: Any = keras.utils.model_to_dot(model, show_shapes=True, show_layer_names=True, expand_nested=True)
    labels = [node.get_label() or "" for node in dot.get_nodes()]
    for layer in model.layers:
        assert sum(f"<b>{layer.name}</b>" in label for label in labels) == 1, layer.name
    assert len(dot.get_edges()) == len(model.layers) - 1
    if shutil.which("dot"):  # graphviz, a program
        keras.utils.plot_model(model, tmp_path / "model.png")
        assert (tmp_path / "model.png").read_bytes().startswith(b"\x89PNG")


OUTSIDE = """
import json, sys

import keras
import numpy as np
import tensorflow as tf

folder = sys.argv[1]
images = np.load(f"{folder}/images.npy")
exported = tf.saved_model.load(f"{folder}/exported")
try:
    keras.saving.load_model(f"{folder}/model.keras")
except TypeError as error:
    said = str(error)
assert not any(name.startswith("resnet_keras") for name in sys.modules)

import resnet_keras

answers = [exported.serve(images), keras.saving.load_model(f"{folder}/model.keras")(images)]
print(json.dumps([said.split("Full object")[0], *(np.asarray(answer).tolist() for answer in answers)]))
"""


def test_files_in_a_process_without_us(tmp_path: Path) -> None:
    """`model.export` needs nothing of ours; a `.keras` file needs `import resnet_keras`, and Keras says so."""
    model = ResNet(classes=3)
    model.save(tmp_path / "model.keras")
    model.export(tmp_path / "exported", verbose=False)
    np.save(tmp_path / "images.npy", IMAGES)
    command = [sys.executable, "-c", OUTSIDE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said, *answers = json.loads(done.stdout.splitlines()[-1])
    assert said.startswith("Could not locate class 'Model'. Make sure custom classes")
    for answer in answers:
        np.testing.assert_allclose(answer, model(IMAGES), rtol=1e-4, atol=1e-6)
