"""`train` with a model, data, a loss and metrics of the user's own."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import TINY

import resnet_keras as rk
from resnet_keras.config.table import read_table
from resnet_keras.config.train import Augmentation, TrainConfig
from resnet_keras.data import given as given_data
from resnet_keras.errors import UsageError
from resnet_keras.models.around import classifier_around
from resnet_keras.training.devices import make_strategy
from resnet_keras.training.given import Given, Judge
from resnet_keras.training.trainer import run

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 150)
IMAGES = (RNG.integers(0, 60, (150, 8, 8, 1)) + LABELS[:, None, None, None] * 80).astype("uint8")
TRAIN, TEST = (IMAGES[:120], LABELS[:120]), (IMAGES[120:], LABELS[120:])


@pytest.fixture
def config(tiny: TrainConfig, tmp_path: Path) -> TrainConfig:
    """Two epochs of three steps, without augmentation."""
    changes = {"batch_size": 40, "augmentation": Augmentation(), "run_dir": str(tmp_path / "run"), "strategy": "none"}
    return dataclasses.replace(tiny, **changes)


def sequential(end: str | None = "softmax") -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization(), keras.layers.GlobalAveragePooling2D()]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Dense(3, activation=end)])


def ours(**options: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    return rk.create_model("cifar_resnet20", input_shape=(8, 8, 1), **{"classes": 3, **TINY, **options})


def datasets(size: int) -> tuple[tf.data.Dataset, tf.data.Dataset]:
    train, test = (tf.data.Dataset.from_tensor_slices(part) for part in (TRAIN, TEST))
    return train.batch(size), test.batch(size)


@pytest.mark.parametrize(
    "make",
    [
        sequential,
        pytest.param(lambda: sequential(None), marks=pytest.mark.slow),
        pytest.param(ours, marks=pytest.mark.slow),
        pytest.param(lambda: ours(classifier_activation=None), marks=pytest.mark.slow),
        lambda: ours(include_preprocessing=rk.ModelCard(mean=(0.4,), std=(0.3,))),
    ],
    ids=["softmax", "logits", "ours", "our logits", "with a card"],
)
def test_a_model_of_the_users_is_trained_in_place(config: TrainConfig, make: Callable[[], keras.Model]) -> None:
    config, model = dataclasses.replace(config, epochs=1), make()
    before = [weight.numpy() for weight in model.trainable_variables]
    result = run(config, given=Given(model=model, data=(TRAIN, TEST)))
    assert any(np.abs(weight - was).max() > 1e-3 for weight, was in zip(model.trainable_variables, before, strict=True))
    assert result.metrics["examples"] == 30
    again = rk.load_model(result.run_dir)
    np.testing.assert_allclose(again(IMAGES[:4]), result.model(IMAGES[:4]), atol=1e-6)
    np.testing.assert_allclose(np.sum(result.model(IMAGES[:4]), -1), 1, rtol=1e-5)
    assert rk.predict(result.run_dir, [str(_png(Path(config.run_dir or "")))], top_k=3)[0].labels != ()
    card = rk.model_card(again)
    assert (card.labels, card.network, card.data) == (("0", "1", "2"), model.name, "")
    assert card.mean == ((0.4,) if rk.model_card(model).mean == (0.4,) else card.mean)


def test_what_a_run_cannot_do_is_said_when_it_begins(config: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    run(dataclasses.replace(config, epochs=1), given=Given(sequential(), datasets(30)), quiet=False)
    said = capsys.readouterr().err
    assert "the model has no card: its pixels are normalised by mean (0.5,) and std (0.25,)" in said
    assert "resumes, but not to the last bit" in said


def _png(folder: Path) -> Path:
    path = folder.parent / "image.png"
    path.write_bytes(tf.io.encode_png(IMAGES[0]).numpy())
    return path


def test_a_model_that_scales_its_pixels_gets_them() -> None:
    images = keras.Input((8, 8, 1))
    mean = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(images))
    model = keras.Model(images, keras.layers.Dense(3)(mean))
    network = classifier_around(model, rk.ModelCard(mean=(0.5,), std=(0.2,))).network
    np.testing.assert_allclose(network(IMAGES[:4]), tf.nn.softmax(model(IMAGES[:4].astype("float32"))), atol=1e-6)


@pytest.mark.parametrize("end", [pytest.param("softmax", marks=pytest.mark.slow), None])
def test_it_trains_as_fit_does(config: TrainConfig, end: str | None) -> None:
    """On the same batches, which a dataset gives in its own order."""
    config = dataclasses.replace(config, epochs=1)
    model, plain = sequential(end), sequential(end)
    loss = keras.losses.CategoricalCrossentropy(from_logits=end is None, label_smoothing=0.1)
    optimizer = lambda: keras.optimizers.SGD(0.05, momentum=0.9)  # noqa: E731
    result = run(config, given=Given(model, datasets(25), optimizer(), loss, ["categorical_accuracy"]))
    network = classifier_around(plain, rk.model_card(result.model)).network  # what normalises the pixels
    inside = keras.Model(network.input, plain(network.get_layer("preprocessing")(network.input)))
    inside.compile(optimizer(), loss, jit_compile=False)
    one_hot = np.eye(3, dtype="float32")[LABELS]
    inside.fit(IMAGES[:120], one_hot[:120], batch_size=40, epochs=1, shuffle=False, verbose=0)
    for one, other in zip(plain.weights, model.weights, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5, err_msg=one.path)
    (row,) = read_table(result.run_dir)
    assert row["val_loss"] == pytest.approx(inside.evaluate(IMAGES[120:], one_hot[120:], verbose=0), rel=1e-4)
    assert row["val_categorical_accuracy"] == pytest.approx(row["val_accuracy"])
    assert json.loads((result.run_dir / "metrics.json").read_text())["categorical_accuracy"] == pytest.approx(
        result.metrics["accuracy"]
    )


def test_a_run_with_all_of_the_users_resumes(config: TrainConfig) -> None:
    class Dies(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 1:
                raise SystemExit

    def given() -> Given:
        return Given(sequential(), (TRAIN, TEST), keras.optimizers.Adam(1e-2), "categorical_crossentropy", ["mae"])

    whole = run(dataclasses.replace(config, run_dir=f"{config.run_dir}-whole"), given=given())
    with pytest.raises(SystemExit):
        run(config, given=given(), callbacks=[Dies()])
    resumed = run(config, given=given())
    for one, other in zip(whole.model.weights, resumed.model.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert [row["val_mae"] for row in read_table(whole.run_dir)] == [
        row["val_mae"] for row in read_table(resumed.run_dir)
    ]
    with pytest.raises(UsageError, match="is a run of another config: data was 'given'"):
        rk.train(config, model=sequential(), quiet=True)
    with pytest.raises(UsageError, match="resume it by train"):
        rk.train(dataclasses.replace(config, model="given", run_dir=f"{config.run_dir}-new"), quiet=True)
    with pytest.raises(UsageError, match="does not say which data it is for"):
        rk.evaluate(resumed.run_dir)


def test_two_replicas_take_a_model_made_under_their_strategy(config: TrainConfig) -> None:
    strategy = make_strategy("mirrored")
    with strategy.scope():
        model = sequential()
    result = run(config, given=Given(model, datasets(30), metrics=["accuracy", "sparse_top_k_categorical_accuracy"]))
    assert "MirroredStrategy on 2" in result.metrics["environment"]["devices"]
    (first, second) = read_table(result.run_dir)
    assert second["loss"] < first["loss"]  # type: ignore[operator]
    assert second["val_sparse_top_k_categorical_accuracy"] == 1.0  # of three classes, five


def test_what_a_layer_adds_to_the_loss_is_trained_too(config: TrainConfig) -> None:
    images = keras.Input((8, 8, 1))
    heavy = keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(10.0), name="heavy")
    model = keras.Model(images, heavy(keras.layers.Flatten()(images)))
    before = float(np.abs(heavy.kernel).sum())
    run(config, given=Given(model, (TRAIN, TEST), keras.optimizers.SGD(0.02)))
    assert float(np.abs(heavy.kernel).sum()) < 0.5 * before


@pytest.mark.parametrize("sparse", [False, True])
def test_a_judge_is_keras_own_measure(sparse: bool) -> None:
    logits, targets = RNG.normal(size=(10, 3)).astype("float32"), RNG.integers(0, 3, 10)
    prefix = "sparse_" if sparse else ""
    judge = Judge(f"{prefix}categorical_crossentropy", [f"{prefix}categorical_crossentropy", "accuracy"], False)
    judge.reset()
    for part in (slice(0, 7), slice(7, 10)):
        judge.add(np.eye(3)[targets[part]], logits[part])
    expected = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(targets, logits)
    found = judge.result()
    assert found["loss"] == pytest.approx(float(expected), rel=1e-5)
    assert found[f"{prefix}categorical_crossentropy"] == pytest.approx(float(expected), rel=1e-5)
    assert len(found) == 2


@pytest.mark.parametrize("labels", [LABELS[:12], LABELS[:12, None], np.eye(3)[LABELS[:12]]], ids=["N", "N1", "one-hot"])
@pytest.mark.parametrize("batch", [0, 5])
def test_a_dataset_gives_its_own_order(labels: np.ndarray, batch: int) -> None:
    dataset = tf.data.Dataset.from_tensor_slices((IMAGES[:12], labels))
    dataset = dataset.batch(batch) if batch else dataset
    source = given_data.source_of((dataset, dataset), 3)
    assert (len(source.train), source.image_size, source.channels) == (12, (8, 8), 1)
    ways = {"batch_size": 4, "first_step": 2, "last_step": 7}
    halves = [
        list(given_data.training_batches(source.train, (8, 8), 3, shard=(half, 2), **ways))  # type: ignore[arg-type]
        for half in range(2)
    ]
    for i, ((first, first_labels), (second, _)) in enumerate(zip(*halves, strict=True), 2):
        place = i % 3 * 4
        np.testing.assert_array_equal(np.concatenate([first, second]), IMAGES[place : place + 4])
        np.testing.assert_array_equal(np.argmax(first_labels, -1), LABELS[place : place + 2])
    assert len(halves[0]) == 5


def test_the_arrays_of_keras_datasets() -> None:
    source = given_data.source_of(((IMAGES[..., 0], LABELS[:, None]), TEST))
    assert (source.labels, source.channels, source.train.targets.shape) == (("0", "1", "2"), 1, (150,))  # type: ignore[union-attr]
    counted = datasets(7)[0].take(2).concatenate(datasets(7)[0].take(1)).filter(lambda *batch: True)
    assert len(given_data.source_of((counted, counted)).train) == 21
    assert given_data.source_of((counted, counted)).labels == ("0", "1", "2")


def test_validation_images_are_given_in_the_middle(config: TrainConfig) -> None:
    middle, (train, test) = (IMAGES[:20], LABELS[:20]), datasets(5)
    source = given_data.source_of((TRAIN, middle, TEST))
    assert (len(source.train), len(source.validation or ()), len(source.test)) == (120, 20, 30)
    metrics = run(dataclasses.replace(config, epochs=2), given=Given(sequential(), (train, middle, test))).metrics
    assert metrics["validation"]["examples"] == 20
    assert metrics["best_epoch"] in (1, 2)
    with pytest.raises(UsageError, match="the validation images"):
        given_data.source_of((TRAIN, (IMAGES[:, :4], LABELS), TEST))


ENDLESS = datasets(5)[0].repeat()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (IMAGES, r"data must be \(train, test\) or \(train, validation, test\)"),
        ((TRAIN, IMAGES), r"the test data must be \(images, labels\)"),
        (((IMAGES / 255, LABELS), TEST), "must be uint8 pixels, 0 to 255"),
        (((IMAGES, LABELS[:9]), TEST), "one for each of 150 images"),
        (((IMAGES, LABELS - 1), TEST), "must count from 0"),
        (((IMAGES, LABELS + 1), TEST), "training labels go up to 3, for 3 classes"),
        ((TRAIN, (IMAGES[:, :4], LABELS)), "the test images"),
        ((ENDLESS, TEST), "has no end"),
        ((datasets(5)[0].take(0), TEST), "is empty"),
        ((tf.data.Dataset.from_tensor_slices(IMAGES), TEST), r"must give \(images, labels\)"),
        ((TRAIN, datasets(5)[1].map(lambda images, labels: (images[:, 0], labels))), r"of one size"),
        ((TRAIN, datasets(5)[1].map(lambda images, labels: (images, tf.one_hot(labels, 4)))), "one-hot for 4 classes"),
    ],
)
def test_data_that_cannot_be_used(data: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        given_data.source_of(data, 3)


@pytest.mark.parametrize("part", [0, 1])
def test_a_label_of_a_dataset_that_is_no_class_ends_the_run(config: TrainConfig, part: int) -> None:
    data = list(datasets(40))
    data[part] = data[part].map(lambda images, labels: (images, labels + 1))
    with pytest.raises(tf.errors.InvalidArgumentError, match="labels must be 0 to 2"):
        run(config, given=Given(sequential(), tuple(data)))


def test_several_labels_of_a_dataset_end_the_run(config: TrainConfig) -> None:
    train, test = datasets(40)
    several = train.map(lambda images, labels: (images, tf.one_hot(labels, 3) + tf.one_hot((labels + 1) % 3, 3)))
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="must sum to 1 an image, for several labels an image give"
    ):
        run(config, given=Given(sequential(), (several, test)))


def subclassed() -> keras.Model:
    class Own(keras.Model):
        def call(self, x: Any) -> Any:
            return x

    return Own()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (subclassed, "must be a functional keras.Model"),
        (lambda: keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]), "must take images"),
        (lambda: sequential("sigmoid"), "must end in logits or a softmax, not in sigmoid"),
        (lambda: keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)]), "begins with an Input"),
        (lambda: rk.build_resnet(18, input_shape=(None, None, 1), classes=3), "an input of known size"),
        (lambda: rk.build_resnet(18, input_shape=(32, 32, 3), classes=3), "takes 3 channels, data given has 1"),
        (lambda: ours(classes=4), "has 4 classes, data given has 3"),
    ],
)
def test_models_that_cannot_be_trained(config: TrainConfig, make: Callable[[], keras.Model], words: str) -> None:
    data = datasets(5)
    data[0].class_names = ["a", "b", "c"]  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=words):
        run(config, given=Given(make(), data))
    assert not Path(config.run_dir or "").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"augmentation": Augmentation(flip=True)}, "brings its images as they are to be"),
        ({"freeze": "stage3"}, "set trainable=False on its layers"),
        ({"weights": "imagenet"}, "weights and image_size are for the config's own model"),
        ({"validation": 0.2}, "which a tf.data.Dataset cannot index"),
        ({"class_weights": "balanced"}, "is streamed; use none"),
    ],
)
def test_settings_that_do_not_go_with_what_is_given(config: TrainConfig, changes: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        run(dataclasses.replace(config, **changes), given=Given(sequential(), datasets(5)))
