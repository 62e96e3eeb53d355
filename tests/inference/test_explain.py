"""Grad-CAM: what it is by definition, where it must be, what is drawn, and what is refused."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from matplotlib.image import imread
from small import randomise

import resnet_keras as rk
from resnet_keras.cli.main import main
from resnet_keras.data.format import image_format
from resnet_keras.errors import UsageError

RNG = np.random.default_rng(0)
SIDE = 32


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A colour image, larger than the networks' input and not square."""
    path = tmp_path_factory.mktemp("images") / "a.png"
    path.write_bytes(tf.io.encode_png(RNG.integers(0, 256, (40, 50, 3), "uint8")).numpy())
    return path


def enlarged(coarse: np.ndarray) -> np.ndarray:
    """Bilinear, between the middles of the pixels, and scaled by the maximum."""
    for _ in range(2):
        n = coarse.shape[1]
        places = (np.arange(SIDE) + 0.5) * n / SIDE - 0.5
        coarse = np.array([np.interp(places, np.arange(n), row) for row in coarse]).T
    return coarse / coarse.max()


def model_input(model: keras.Model, image: Path) -> Any:
    pixels = image_format(model).evaluation_transform(tf.constant(image.read_bytes()))
    return rk.preprocess_input(pixels[None], model)


def net(kind: str) -> tuple[keras.Model, str]:
    """A small network with random weights, and the layer whose map is its last."""
    shape: dict[str, Any] = {"classes": 4, "input_shape": (SIDE, SIDE, 3)}
    model, last = {
        "residual": lambda: (rk.build_cifar_resnet(8, **shape), "stage3_block1"),
        "plain": lambda: (rk.build_cifar_resnet(8, shortcut="none", **shape), "stage3_block1"),
        "raw pixels": lambda: (rk.build_cifar_resnet(8, include_preprocessing=True, **shape), "stage3_block1"),
        "logits": lambda: (rk.build_cifar_resnet(8, classifier_activation=None, **shape), "stage3_block1"),
        "dropout": lambda: (rk.build_cifar_resnet(8, dropout=0.5, **shape), "stage3_block1"),
        "preactivation": lambda: (rk.build_cifar_resnet(11, "v2", **shape), "final_norm"),
        "densenet": lambda: (rk.build_densenet(10, stem="cifar", **shape), "final_norm"),
        "vgg": lambda: (rk.build_vgg(11, widths=(4, 4, 8, 8, 8), hidden=16, **shape), "stage5_conv2"),
    }[kind]()
    randomise(model)
    return model, last


@pytest.mark.parametrize("kind", ["residual", "plain", "raw pixels", "logits", "dropout", "preactivation", "densenet"])
def test_behind_a_global_pool_it_is_the_class_activation_map(kind: str, image: Path) -> None:
    """Zhou et al. 2016: the last map weighted by the dense layer; Selvaraju et al. 2017, section 3.1, says so too."""
    model, last = net(kind)
    rk.freeze(model)  # the gradient is of a map, and needs no weight that learns
    maps = keras.Model(model.input, model.get_layer(last).output)(model_input(model, image)).numpy()[0]
    kernel = model.get_layer("logits").get_weights()[0]
    for column in range(4):
        found = rk.explain(model, image, label=str(column))
        expected = np.maximum(maps @ kernel[:, column], 0)
        assert found.map_size == expected.shape
        assert (found.heat.shape, found.heat.dtype) == ((SIDE, SIDE), np.float32)
        np.testing.assert_allclose(found.heat, enlarged(expected), atol=1e-4)
        assert (found.heat.min() >= 0, found.heat.max(), found.empty) == (True, 1.0, False)


def test_behind_dense_layers_it_is_what_moving_the_map_does(image: Path) -> None:
    """Central differences of the logits along each number of VGG's last map, before its pool, in float64."""
    model, last = net("vgg")
    exact = keras.models.clone_model(
        model, clone_function=lambda layer: type(layer).from_config({**layer.get_config(), "dtype": "float64"})
    )
    exact.set_weights(model.get_weights())
    end = exact.get_layer(last).output
    maps = keras.Model(exact.input, end)(model_input(model, image)).numpy()[0]
    head = keras.Model(end, exact.get_layer("logits").output)
    steps = 1e-6 * np.eye(maps.size).reshape(-1, *maps.shape)
    gradient = (head(maps + steps).numpy() - head(maps - steps).numpy()) / 2e-6
    assert gradient.dtype == np.float64
    coarse = [np.maximum(maps @ gradient[:, i].reshape(maps.shape).mean((0, 1)), 0) for i in range(4)]
    assert any(one.any() for one in coarse)
    for label, expected in zip("0123", coarse, strict=True):
        found = rk.explain(model, image, label=label)
        assert found.map_size == (2, 2)
        assert found.empty == (not expected.any())
        np.testing.assert_allclose(found.heat, enlarged(expected) if expected.any() else expected.max(), atol=1e-4)


def red_net(scale: float = 1.0, activation: str = "softmax") -> keras.Model:
    """A Keras model that is not ours: red speaks for class 0 and against class 1."""
    inputs = keras.Input((16, 16, 3))
    mean = keras.layers.Conv2D(1, 4, strides=4, activation="relu", name="red")
    model = keras.Sequential(
        [
            inputs,
            keras.layers.Rescaling(1.0),
            mean,
            keras.layers.MaxPooling2D(2),
            keras.layers.GlobalAveragePooling2D(keepdims=True),
            keras.layers.Flatten(),
            keras.layers.Dense(2, activation=activation),
        ]
    )
    mean.set_weights([np.broadcast_to(np.array([1.0, 0, 0])[:, None] / 16, (4, 4, 3, 1)), np.zeros(1)])
    model.layers[-1].set_weights([np.array([[scale, -scale]]), np.zeros(2)])
    return model


@pytest.fixture(scope="module")
def corner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16x16, red in the lower left quarter, black elsewhere (which ImageNet's normalisation makes negative)."""
    pixels = np.zeros((16, 16, 3), "uint8")
    pixels[8:, :8, 0] = 255
    path = tmp_path_factory.mktemp("images") / "corner.png"
    path.write_bytes(tf.io.encode_png(pixels).numpy())
    return path


@pytest.mark.parametrize("scale", [0.1, 1000.0])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "linear"])
def test_heat_is_where_the_class_is(scale: float, activation: str, corner: Path) -> None:
    """However sure the softmax is: its own gradient would be 0 in the end, the logit's is not."""
    model = red_net(scale, activation)
    found = rk.explain(model, corner)
    assert (found.label, found.map_size, found.heat.max()) == ("0", (4, 4), 1.0)
    assert found.score == rk.predict(model, [corner])[0].scores[0]
    assert found.heat[10:, :6].min() > 0.9  # the card's crop blurs the edges
    assert found.heat[:5].max() == found.heat[:, 11:].max() == 0
    assert (found.pixels[10:, :6] == (255, 0, 0)).all()
    nothing = rk.explain(model, corner, label="1")
    assert (nothing.empty, nothing.heat.max()) == (True, 0)
    assert "no part speaks for it" in rk.draw_explanation(nothing).axes[1].get_title()


def test_a_map_of_one_pixel_gives_way_to_the_one_before(image: Path) -> None:
    model = rk.create_model("resnet18", input_shape=(SIDE, SIDE, 3), classes=2, widths=(4, 4, 8, 8), stem_width=4)
    assert model.get_layer("stage4_block2").output.shape == (None, 1, 1, 8)
    assert rk.explain(model, image).map_size == (2, 2)


@pytest.mark.parametrize(("shape", "channels"), [((8, 8), 1), ((16, 16), 3), ((224, 224), 3), ((60, 300), 3)])
def test_what_is_drawn(shape: tuple[int, int], channels: int) -> None:
    pixels = RNG.integers(0, 256, (*shape, channels), "uint8")
    heat = RNG.uniform(size=shape).astype("float32")
    figure = rk.draw_explanation(rk.Explanation("$a_猫$", 0.25, heat, (2, 3), pixels))
    plain, heated, bar = figure.axes
    assert figure.get_suptitle() == "$a_猫$ 0.2500"
    assert heated.get_title() == "Grad-CAM, from a map of 2x3"
    np.testing.assert_array_equal(plain.images[0].get_array(), np.broadcast_to(pixels, (*shape, 3)))
    np.testing.assert_array_equal(heated.images[1].get_array(), heat)
    assert bar.get_ylim() == (0, 1)


def test_the_command(
    digits_run: Path, digit_png: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    predicted = rk.predict(digits_run, [digit_png])[0]
    assert main(["explain", str(digits_run), str(digit_png), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {name: result[name] for name in ("image", "label", "output", "map_size")} == {
        "image": str(digit_png),
        "label": predicted.labels[0],
        "output": "digit-explained.png",
        "map_size": [2, 2],
    }
    assert result["score"] == pytest.approx(predicted.scores[0], rel=1e-6)
    assert imread("digit-explained.png").shape == (550, 1100, 4)
    assert main(["explain", str(digits_run), str(digit_png), "--label", "7", "--output", "seven.png"]) == 0
    assert capsys.readouterr().out.startswith(f"{digit_png}: 7 0.")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digit-explained.png", "seven.png"]


def test_a_folder(digits_run: Path, digit_png: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One PNG file an image; a damaged one is named, and the others are done."""
    images = tmp_path / "images"
    for name in ("a/1.png", "a/2.PNG", "b/1.png"):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        (images / name).write_bytes(digit_png.read_bytes())
    (images / "a" / "notes.txt").write_text("no image")
    output = images / "explained"
    words = ["explain", str(digits_run), str(images), "--output", str(output), "--label", "7"]
    written = ["1-explained.png", "2-explained.png", "b-1-explained.png"]
    result: dict[str, Any] = {}
    for _ in range(2):  # what is written below the images is not explained in its turn
        assert main([*words, "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["failed"] == []
        assert [Path(one["output"]).name for one in result["explanations"]] == written
        assert sorted(path.name for path in output.iterdir()) == written
    alone = rk.explain(digits_run, digit_png, label="7")
    assert [one["score"] for one in result["explanations"]] == pytest.approx([alone.score] * 3, rel=1e-6)
    assert result["explanations"][0]["image"] == str(images / "a" / "1.png")

    (images / "a" / "1.png").write_bytes(b"junk")
    assert main([*words, "--json"]) == 2
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert [Path(one["image"]).name for one in result["explanations"]] == ["2.PNG", "1.png"]
    assert [one["image"] for one in result["failed"]] == [str(images / "a" / "1.png")]
    assert "a/1.png is not an image" in result["failed"][0]["error"]
    assert "a/1.png is not an image" in err
    assert "1 of 3 images could not be explained; the others are in" in err
    assert main(["explain", str(digits_run), str(images / "a" / "2.PNG"), str(digit_png), "--output", str(output)]) == 0
    assert [line.split(": ")[0] for line in capsys.readouterr().out.splitlines()] == [
        str(images / "a" / "2.PNG"),
        str(digit_png),
    ]


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["explain", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    return next(line for line in err.splitlines() if line.startswith("resnet-keras: "))


def test_refusals(digits_run: Path, servable: Path, digit_png: Path, tmp_path: Path, capsys) -> None:
    run, image, output = str(digits_run), str(digit_png), str(tmp_path / "a.png")
    for folder in (servable, servable.parent):
        message = refused(capsys, str(folder), image, "--output", output)
        assert "is a SavedModel, which has no gradients; give its run folder or .keras file" in message
    for words, message in (
        (("/nowhere", image), "there is no run folder or model at /nowhere; packaged ones are cifar10-jpeg"),
        ((run, "none.png"), "cannot read none.png"),
        ((run, str(digits_run / "config.json")), "config.json is not an image"),
        ((run, image, "--label", "ten"), "unknown label of cifar_resnet20 'ten'; choose from 0, 1, 2"),
        ((run, image, "--output", image), "digit.png is the image itself; give another --output"),
        ((run, image, "--output", "a.jpg"), "output a.jpg must end in .png"),
        ((run, image, "--output", str(tmp_path / "none" / "a.png")), "cannot write to"),
        ((run,), "give at least one image file or folder"),
        ((run, str(tmp_path)), "has no image: no file in it ends in .bmp"),
        ((run, image, image, "--output", output), "is for several images, so it must be a folder"),
    ):
        assert message in refused(capsys, *words)
    assert list(tmp_path.iterdir()) == []


def test_models_without_a_map_are_refused(image: Path) -> None:
    flat = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    with pytest.raises(UsageError, match="has no map .* before its head to explain it by") as error:
        rk.explain(flat, image)
    assert "\n" not in str(error.value)


def test_a_model_of_nan_is_refused(image: Path) -> None:
    model = rk.build_cifar_resnet(8)
    model.get_layer("stem").set_weights([np.full(w.shape, np.nan) for w in model.get_layer("stem").get_weights()])
    with pytest.raises(UsageError, match="returns NaN for .*a.png; it cannot be explained"):
        rk.explain(model, image)
