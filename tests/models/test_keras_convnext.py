"""ConvNeXt of keras.applications: its weights here, from models and files, and ours in its layout."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras.src.applications.convnext import ConvNeXt
from small import randomise
from test_weights import as_keras_2, same_weights

import resnet_keras as rk
from resnet_keras.errors import UsageError
from resnet_keras.models.weights.axes import to_theirs
from resnet_keras.models.weights.layouts import LAYOUTS
from resnet_keras.models.weights.weight_layers import HEAD, WeightLayers

RNG = np.random.default_rng(0)
SHAPE = (64, 64, 3)
SIZES: dict[str, Any] = {"blocks": (1, 2, 1, 1), "widths": (8, 12, 16, 24)}
LAYOUT = next(layout for layout in LAYOUTS if layout.title == "keras.applications' ConvNeXt")


def peer(name: str = "convnext_tiny", **options: Any) -> keras.Model:
    """A short one by keras.applications' own function, weights random."""
    given: dict[str, Any] = {"include_preprocessing": False, "classes": 4, "classifier_activation": None, **options}
    model = ConvNeXt(SIZES["blocks"], SIZES["widths"], name=name, input_shape=SHAPE, weights=None, **given)
    randomise(model)
    return model


def ours(**options: Any) -> keras.Model:
    given: dict[str, Any] = {**SIZES, "classes": 4, "classifier_activation": None, "input_shape": SHAPE, **options}
    return rk.build_convnext("tiny", **given)


def assert_alike(one: keras.Model, other: keras.Model, images: np.ndarray) -> None:
    expected = np.asarray(one(images))
    np.testing.assert_allclose(other(images), expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert np.ptp(expected) > 0.1


@pytest.mark.parametrize("name", ["convnext_tiny", "convnext_large", "mine"])
def test_the_same_logits(name: str) -> None:
    theirs, model = peer(name), ours()
    rk.load_weights(model, theirs)
    assert_alike(theirs, model, RNG.normal(size=(2, *SHAPE)).astype("float32"))


def test_its_preprocessing_is_our_card() -> None:
    """It normalises in its graph, as torchvision does; ours then does, too, or leaves it to the caller."""
    theirs, model, outside = peer(include_preprocessing=True), ours(include_preprocessing=True), ours()
    pixels = RNG.integers(0, 256, (2, *SHAPE)).astype("float32")
    for one in (model, outside):
        rk.load_weights(one, theirs)
        assert rk.model_card(one).mean == (0.485, 0.456, 0.406)
        assert rk.model_card(one).source == "keras.applications"
    assert_alike(theirs, model, pixels)
    expected = np.asarray(theirs(pixels))
    got = outside(rk.preprocess_input(pixels, outside))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_without_its_head() -> None:
    theirs = peer(include_top=False, pooling="avg")
    again = peer(include_top=False, pooling="avg")  # its last norm has another number
    for source in (theirs, again):
        model = ours(include_top=False, pooling="avg")
        rk.load_weights(model, source)
        assert_alike(source, model, RNG.normal(size=(2, *SHAPE)).astype("float32"))
    whole = peer()
    model, features = ours(include_top=False), ours()
    rk.load_weights(model, whole)
    rk.load_weights(features, whole)
    np.testing.assert_array_equal(model.weights[-1], features.weights[-3])


@pytest.mark.parametrize("weights_only", [True, False])
def test_its_files(weights_only: bool, tmp_path: Path) -> None:
    theirs, model, from_file = peer(), ours(), ours()
    rk.load_weights(model, theirs)
    as_keras_2(theirs, tmp_path / "weights.h5", weights_only)
    rk.load_weights(from_file, tmp_path / "weights.h5")
    assert same_weights(model, from_file)
    theirs.save(tmp_path / "whole.keras")
    rk.load_weights(again := ours(), tmp_path / "whole.keras")
    assert same_weights(model, again)


def test_ours_in_its_layout_are_its_own_to_the_bit() -> None:
    theirs, model = peer(), ours()
    rk.load_weights(model, theirs)
    network = WeightLayers(model)
    back = {
        LAYOUT.tensor(names[0], variable): to_theirs(layer, LAYOUT, variable, np.asarray(value))
        for path, names in LAYOUT.names(network).items()
        for layer in [network.by_path[path]]
        for variable, value in layer.variables.items()
    }
    given = {w.path.replace("convnext_tiny_", "").split("/", w.path.count("/") - 1)[-1]: w for w in theirs.weights}
    given = {name if "scale" not in name else f"{name.split('/')[0]}/kernel": value for name, value in given.items()}
    assert back.keys() == given.keys()
    assert all(np.array_equal(back[name], value) for name, value in given.items())


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(UsageError, match="has its norms behind the sums, that library's before"):
        rk.load_weights(ours(norm_placement="post"), peer())
    with pytest.raises(UsageError, match="the head of convnext_tiny does not fit"):
        rk.load_weights(ours(classes=7), peer())
    rk.load_weights(ours(classes=7), peer(), skip_head=True)
    with pytest.raises(UsageError, match=r"depthwise_conv/kernel is \(7, 7, 1, 8\) there and \(5, 5, 1, 8\) here"):
        rk.load_weights(ours(kernel_size=5), peer())
    assert HEAD in WeightLayers(ours()).by_path


@pytest.mark.slow
@pytest.mark.parametrize("size", ["Tiny", "Small", "Base", "Large"])
def test_the_published_sizes(size: str) -> None:
    theirs = getattr(keras.applications, f"ConvNeXt{size}")(weights=None, classifier_activation=None)
    randomise(theirs)
    model = rk.create_model(f"convnext_{size.lower()}", classifier_activation=None, include_preprocessing=True)
    rk.load_weights(model, theirs)
    assert_alike(theirs, model, RNG.integers(0, 256, (1, 224, 224, 3)).astype("float32"))
