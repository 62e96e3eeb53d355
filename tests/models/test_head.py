"""A card belongs to a head; what a classifier ends in, and what it does to its pixels itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import resnet_keras as rk
from resnet_keras.errors import UsageError
from resnet_keras.models.around import classifier_around
from resnet_keras.models.graph import head_of
from resnet_keras.models.preprocessing import missing_normalisation, normalises
from resnet_keras.models.saved import classifier

SHAPE = (32, 32, 3)
RNG = np.random.default_rng(0)


def dense(classes: int) -> keras.layers.Dense:
    return keras.layers.Dense(classes, "softmax", name="species")


def behind(backbone: keras.Model, classes: int) -> keras.Model:
    """A new head on the backbone's output, in the same graph."""
    return keras.Model(backbone.input, dense(classes)(keras.layers.GlobalAveragePooling2D()(backbone.output)))


def around(backbone: keras.Model, classes: int) -> keras.Model:
    """A new model that holds the backbone."""
    pixels = keras.Input(SHAPE)
    return keras.Model(pixels, dense(classes)(keras.layers.GlobalAveragePooling2D()(backbone(pixels))))


def sequential(backbone: keras.Model, classes: int) -> keras.Model:
    layers = [keras.Input(SHAPE), backbone, keras.layers.GlobalAveragePooling2D(), dense(classes)]
    return keras.Sequential(layers)


def whole_net_cut(_: keras.Model, classes: int) -> keras.Model:
    """The trained network with its own head, of which only the features are used, for a head of the same name."""
    whole = rk.load_model("cifar10-jpeg")
    head = keras.layers.Dense(classes, "softmax", name="logits")
    return keras.Model(whole.input, head(whole.get_layer("avg_pool").output))


def whole_net_read(_: keras.Model, classes: int) -> keras.Model:
    """A head that reads the ten probabilities."""
    pixels = keras.Input(SHAPE)
    return keras.Model(pixels, dense(classes)(rk.load_model("cifar10-jpeg")(pixels)))


@pytest.fixture(scope="module")
def backbone() -> keras.Model:
    return rk.create_model("cifar_resnet20", weights="cifar10-jpeg", include_top=False, input_shape=SHAPE)


@pytest.mark.parametrize(
    ("build", "classes"),
    [
        (behind, 10),
        pytest.param(behind, 3, marks=pytest.mark.slow),
        pytest.param(around, 10, marks=pytest.mark.slow),
        (around, 3),
        pytest.param(sequential, 10, marks=pytest.mark.slow),
        (whole_net_cut, 10),
        pytest.param(whole_net_read, 10, marks=pytest.mark.slow),  # 3 s, as a model that holds the backbone
    ],
)
def test_a_new_head_says_nothing_of_the_old_ones_classes(
    build: Callable[..., keras.Model], classes: int, backbone: keras.Model, tmp_path: Path
) -> None:
    trained = rk.model_card(rk.load_model("cifar10-jpeg"))
    assert (len(trained.labels), trained.recipe != "", "accuracy" in trained.metrics) == (10, True, True)
    path, image = tmp_path / "species.keras", tmp_path / "a.png"
    image.write_bytes(tf.io.encode_png(RNG.integers(0, 256, SHAPE, "uint8")).numpy())
    build(backbone, classes).save(path)
    model = rk.load_model(path)
    card = rk.model_card(model)
    assert (card.labels, card.label_ids, card.metrics, card.claims, card.recipe, card.data) == ((), (), {}, {}, "", "")
    assert (card.mean, card.std, card.crop) == (trained.mean, trained.std, trained.crop)
    numbers = [str(i) for i in range(classes)]
    assert sorted(rk.predict(path, [image], 10)[0].labels) == numbers
    with pytest.raises(UsageError, match="does not say which data it is for"):
        rk.evaluate(path)


def test_a_head_that_is_the_cards_keeps_it() -> None:
    whole = rk.load_model("cifar10-jpeg")
    inside = keras.Sequential([keras.Input(SHAPE), keras.layers.RandomFlip(), whole])
    for model in (whole, inside):
        assert rk.model_card(model).labels[3] == "cat"
        assert rk.model_card(model).metrics["accuracy"] > 0.8


@pytest.mark.parametrize("end", ["softmax", None])
@pytest.mark.parametrize("build", [behind, around])
def test_a_run_of_a_new_head_has_a_card_of_its_own(build: Callable[..., keras.Model], end: str | None) -> None:
    """On a backbone that normalises by its own card, which goes on doing so and is left as it is."""
    backbone = rk.create_model(
        "cifar_resnet20", weights="cifar10-jpeg", include_top=False, input_shape=SHAPE, include_preprocessing=True
    )
    model = build(backbone, 2)
    model.layers[-1].activation = keras.activations.get(end)
    before = rk.model_card(model)
    pixels = RNG.integers(0, 256, (2, *SHAPE)).astype("float32")
    expected = model(pixels, training=False)
    network = classifier_around(model, rk.ModelCard(labels=("cat", "dog"), data="pets")).network
    card = rk.model_card(network)
    assert (card.labels, card.data, card.mean) == (("cat", "dog"), "pets", before.mean)
    assert rk.model_card(model).labels == ()
    assert missing_normalisation(network) is None
    if end:
        np.testing.assert_allclose(network(pixels, training=False), expected, atol=1e-6)


def convolutional(*before: Any, end: Any = "softmax", classes: int = 3, **options: Any) -> keras.Model:
    layers = [keras.layers.Conv2D(4, 3), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(classes, end)]
    return keras.Sequential([keras.Input((8, 8, 3)), *before, *layers, *options.get("behind", [])], name="mine")


def arithmetic() -> keras.Model:
    pixels = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3)(pixels / 127.5 - 1.0)
    return keras.Model(pixels, keras.layers.Dense(3)(keras.layers.Flatten()(x)))


def test_who_normalises_the_pixels() -> None:
    own = rk.build_cifar_resnet(8, include_top=False, input_shape=(8, 8, 3))
    pool = keras.layers.GlobalAveragePooling2D()
    rescaled = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Rescaling(1 / 255), own, pool, dense(3)])
    plain = keras.Sequential([keras.Input((8, 8, 3)), own, pool, dense(3)])
    late = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Conv2D(3, 1), keras.layers.Rescaling(2.0), pool, dense(3)]
    )
    for model in (convolutional(keras.layers.Rescaling(1 / 255)), arithmetic(), rescaled):
        assert normalises(model)
    for model in (convolutional(), late, plain):
        assert not normalises(model)
    # Ours without preprocessing leaves it to its caller, unless a layer before it does it.
    assert missing_normalisation(plain) is not None
    assert missing_normalisation(rescaled) is None
    assert rk.model_card(rescaled).mean == (0.0,)
    pixels = RNG.integers(0, 256, (1, 8, 8, 3), "uint8")
    np.testing.assert_array_equal(rk.preprocess_input(pixels, rescaled), pixels)
    # One of others gets its pixels as they are, where ImageNet's mean and deviation were a guess.
    assert missing_normalisation(convolutional()) is None


@pytest.mark.parametrize(
    ("end", "behind", "activation"),
    [
        ("softmax", [], "softmax"),
        ("sigmoid", [], "sigmoid"),
        (None, [], "linear"),
        (None, [keras.layers.Softmax()], "softmax"),
        (None, [keras.layers.Activation("softmax", dtype="float32"), keras.layers.Dropout(0.5)], "softmax"),
        ("relu", [], "relu"),
    ],
)
def test_what_a_head_ends_in(end: Any, behind: list[Any], activation: str) -> None:
    model = convolutional(end=end, behind=behind)
    head = head_of(model)
    assert (head.activation, head.dense) == (activation, model.layers[2])
    if activation == "relu":
        with pytest.raises(UsageError, match="mine ends in neither logits nor probabilities, but in relu"):
            classifier(model)
        return
    pixels = RNG.normal(size=(2, 8, 8, 3)).astype("float32")
    scores = np.asarray(model(pixels, training=False))
    expected = tf.nn.softmax(scores) if activation == "linear" else scores
    np.testing.assert_allclose(classifier(model)(pixels, training=False), expected, atol=1e-6)


def test_a_convolution_behind_a_pool_is_a_head_too() -> None:
    layers = [keras.layers.Conv2D(3, 3, activation="softmax"), keras.layers.GlobalAveragePooling2D()]
    head = head_of(keras.Sequential([keras.Input((8, 8, 3)), *layers]))
    assert (head.activation, head.dense) == ("softmax", None)


@pytest.mark.parametrize("end", [None, "sigmoid"])
def test_one_score_for_two_classes_is_refused(end: str | None) -> None:
    with pytest.raises(UsageError, match=r"mine gives one score for two classes; give it a head of two"):
        classifier(convolutional(end=end, classes=1))


def test_a_lambda_in_a_file_is_refused_in_words(tmp_path: Path) -> None:
    convolutional(keras.layers.Lambda(lambda x: x / 255)).save(tmp_path / "mine.keras")
    with pytest.raises(UsageError, match="cannot be loaded: it has a Lambda layer, whose code") as error:
        classifier(tmp_path / "mine.keras")
    assert "\n" not in str(error.value)
