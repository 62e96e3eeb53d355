"""Grad-CAM of anyone's models: nested backbones and Transformers, equal to the same network in one piece."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import randomise

import resnet_keras as rk
from resnet_keras.data.format import image_format
from resnet_keras.data.images import evaluated_window, resize_and_centre_crop
from resnet_keras.errors import UsageError
from resnet_keras.inference.explain import explain_pixels
from resnet_keras.models.around import classifier_around

RNG = np.random.default_rng(0)
SIDE = 24
IMAGE = RNG.integers(0, 256, (30, 40, 3), "uint8")


def parts() -> tuple[list[Any], list[Any]]:
    """Layers of a backbone, and of what a user puts behind it."""
    first = [keras.layers.Conv2D(6, 3, strides=2, activation="relu"), keras.layers.BatchNormalization()]
    backbone = [*first, keras.layers.Conv2D(8, 3, activation="relu", padding="same")]
    head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dropout(0.5), keras.layers.Dense(4, "softmax")]
    return backbone, head


def through(layers: list[Any], x: Any) -> Any:
    for layer in layers:
        x = layer(x)
    return x


def model_of(layers: list[Any], channels: int = 3, side: int | None = SIDE) -> keras.Model:
    inputs = keras.Input((side, side, channels))
    return keras.Model(inputs, through(layers, inputs))


def nested(kind: str) -> tuple[keras.Model, keras.Model]:
    """A model with a backbone inside, and the same layers in one piece."""
    backbone, head = parts()
    rescaling = keras.layers.Rescaling(1 / 127.5, -1)
    flat = model_of([rescaling, *backbone, *head])
    model = {
        "functional": lambda: model_of([rescaling, model_of(backbone), *head]),
        "of unknown size": lambda: model_of([rescaling, model_of(backbone, side=None), *head]),
        "two deep": lambda: model_of([rescaling, model_of([model_of(backbone)]), *head]),
        "sequential": lambda: keras.Sequential(
            [keras.Input((SIDE, SIDE, 3)), rescaling, keras.Sequential(backbone), *head]
        ),
        "all of it inside": lambda: model_of([flat]),
    }[kind]()
    randomise(flat)
    return model, flat


@pytest.mark.parametrize("kind", ["functional", "of unknown size", "two deep", "sequential", "all of it inside"])
def test_a_backbone_inside_a_model_gives_the_heat_of_the_same_network_in_one_piece(kind: str) -> None:
    model, flat = nested(kind)
    for label in "0123":
        found, expected = (rk.explain(one, IMAGE, label=label) for one in (model, flat))
        assert (found.score, found.map_size, found.empty) == (expected.score, (11, 11), expected.empty)
        np.testing.assert_allclose(found.heat, expected.heat, atol=1e-4)
        assert np.ptp(found.heat) > 0


def test_own_backbone_below_a_head_of_anothers() -> None:
    whole = rk.build_cifar_resnet(8, classes=4, input_shape=(SIDE, SIDE, 3))
    randomise(whole)
    backbone = rk.build_cifar_resnet(8, include_top=False, input_shape=(SIDE, SIDE, 3))
    rk.load_weights(backbone, whole)
    _, head = parts()
    model = model_of([backbone, *head])
    head[-1].set_weights(whole.get_layer("logits").get_weights())
    for label in "0123":
        np.testing.assert_allclose(
            rk.explain(model, IMAGE, label=label).heat, rk.explain(whole, IMAGE, label=label).heat, atol=1e-4
        )
    assert backbone.get_layer("stage3_block1").output.shape[-1] == 64  # its layers were called no second time
    assert rk.feature_pyramid(backbone)(np.zeros((1, SIDE, SIDE, 3)))


@pytest.mark.parametrize("end", ["softmax", None])
def test_what_a_run_puts_around_a_model_changes_no_heat(end: str | None) -> None:
    backbone, head = parts()
    head[-1] = keras.layers.Dense(4, end)
    model = model_of([keras.layers.Rescaling(1 / 255), model_of(backbone), *head])
    randomise(model)
    run = classifier_around(model, rk.ModelCard(labels=("a", "b", "c", "d"), crop=1.0)).network
    for number, label in enumerate("abcd"):
        found, expected = rk.explain(run, IMAGE, label=label), rk.explain(model, IMAGE, label=str(number))
        assert found.score == pytest.approx(expected.score, abs=1e-6)
        np.testing.assert_allclose(found.heat, expected.heat, atol=1e-4)


def test_pixels_that_are_prepared_are_explained_as_the_file_is() -> None:
    model, _ = nested("functional")
    one = rk.explain(model, IMAGE, label="2")
    other = RNG.integers(0, 256, one.pixels.shape, "uint8")
    first, second, third = explain_pixels(model, np.stack([one.pixels, other, other]), [2, 2, 3])
    np.testing.assert_allclose(first.heat, one.heat, atol=1e-5)
    assert (first.label, first.score, first.image) == ("2", pytest.approx(one.score), None)
    assert (second.label, third.label) == ("2", "3")
    assert explain_pixels(model, other[None])[0].label == str(np.argmax(model(other[None].astype("float32"))))
    np.testing.assert_array_equal(first.pixels, one.pixels)


def transformer(tokens: str) -> keras.Model:
    """A small ViT: patches, a class token or a mean, two blocks of attention."""
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(8, 4, strides=4)(keras.layers.Rescaling(1 / 255)(inputs))
    x = keras.layers.Reshape((16, 8))(x)
    if tokens == "none square":
        x = x[:, :15]
    if tokens == "class token":
        x = keras.ops.concatenate([keras.ops.mean(x, 1, keepdims=True), x], 1)
    for _ in range(2):
        y = keras.layers.LayerNormalization()(x)
        x = x + keras.layers.MultiHeadAttention(2, 4)(y, y)
        y = keras.layers.Dense(16, "gelu")(keras.layers.LayerNormalization()(x))
        x = x + keras.layers.Dense(8)(y)
    x = keras.layers.LayerNormalization()(x)
    x = x[:, 0] if tokens == "class token" else keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, keras.layers.Dense(3, "softmax", name="classes")(x))
    randomise(model)
    return model


def test_the_tokens_of_a_transformer_are_a_map() -> None:
    """Behind their mean, the class activation map of the last norm."""
    model = transformer("mean")
    pixels = RNG.integers(0, 256, (1, 16, 16, 3), "uint8")
    (norm,) = [layer for layer in model.layers if isinstance(layer, keras.layers.LayerNormalization)][-1:]
    tokens, drawn = keras.Model(model.input, norm.output)(pixels.astype("float32")).numpy()[0], 0
    for label in range(3):
        (found,) = explain_pixels(model, pixels, [label])
        expected = np.maximum(tokens.reshape(4, 4, 8) @ model.get_layer("classes").get_weights()[0][:, label], 0)
        resized = tf.image.resize(expected[..., None], (16, 16)).numpy()[..., 0]
        assert found.map_size == (4, 4)
        np.testing.assert_allclose(found.heat, resized / (resized.max() or 1), atol=1e-4)
        drawn += not found.empty
    assert drawn


def test_behind_a_class_token_it_is_of_the_tokens_that_attention_reads() -> None:
    """The gradient along what the last block of attention reads, its class token left out."""
    model = transformer("class token")
    pixels = RNG.integers(0, 256, (1, 16, 16, 3), "uint8")
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.LayerNormalization)]
    read = norms[2].input
    values = keras.Model(model.input, read)(pixels.astype("float32"))
    last = keras.Model(read, model.get_layer("classes").input)
    with tf.GradientTape() as tape:
        tape.watch(values)
        logits = last(values) @ model.get_layer("classes").kernel
    slopes, values = tape.jacobian(logits, values).numpy()[0, :, 0], values.numpy()[0]
    for label in range(3):
        (found,) = explain_pixels(model, pixels, [label])
        coarse = np.maximum((values[1:] @ slopes[label, 1:].mean(0)).reshape(4, 4), 0)
        resized = tf.image.resize(coarse[..., None], (16, 16)).numpy()[..., 0]
        assert (found.map_size, found.empty) == ((4, 4), not coarse.any())
        np.testing.assert_allclose(found.heat, resized / (resized.max() or 1), atol=1e-4)


def test_tokens_that_are_no_square_are_refused() -> None:
    with pytest.raises(UsageError, match="its last map is 15 tokens, which are no square"):
        explain_pixels(transformer("none square"), np.zeros((1, 16, 16, 3), "uint8"))


@pytest.mark.parametrize(("sides", "size", "crop"), [((60, 90), (24, 24), 0.875), ((90, 60), (32, 16), 1.0)])
def test_the_window_is_what_the_network_sees(sides: tuple[int, int], size: tuple[int, int], crop: float) -> None:
    """An image of its own coordinates, whose crop shows where it is from."""
    rows, columns = np.meshgrid(np.arange(sides[0]) + 0.5, np.arange(sides[1]) + 0.5, indexing="ij")
    seen = resize_and_centre_crop(tf.constant(np.stack([rows, columns], -1)), size, crop, "bilinear").numpy()
    top, left, bottom, right = evaluated_window(sides, size, crop)
    for axis, first, last in ((0, top, bottom), (1, left, right)):
        step = (last - first) / size[axis]
        places = first + step * (np.arange(size[axis]) + 0.5)
        # The edges lean on pixels that the filter has no neighbours of; pixels are whole numbers.
        np.testing.assert_allclose(seen[..., axis].mean(1 - axis)[2:-2], places[2:-2], atol=0.51)


def test_the_image_is_shown_upright_and_bounded(tmp_path: Path) -> None:
    """A JPEG that is stored lying, as a phone's are, larger than what is shown."""
    pixels = RNG.integers(0, 256, (600, 1200, 3), "uint8")
    exif = b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    encoded = tf.io.encode_jpeg(pixels).numpy()
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded[:2] + exif + encoded[2:])
    model, _ = nested("functional")
    found = rk.explain(model, path)
    assert found.image is not None
    assert found.image.shape == (1024, 512, 3)
    assert found.window == pytest.approx((256, 0, 768, 512))
    assert image_format(model).card.crop == 1.0
    small = tmp_path / "small.png"
    small.write_bytes(tf.io.encode_png(IMAGE).numpy())
    np.testing.assert_array_equal(rk.explain(model, small).image, IMAGE)
