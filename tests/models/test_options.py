"""Options that combine: every combination builds, runs and comes back, or is refused in words; and what each means."""

import re
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import randomise

import resnet_keras as rk
from resnet_keras.errors import UsageError
from resnet_keras.models.preprocessing import has_head_of_card

RNG = np.random.default_rng(0)
CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
NORMS = st.sampled_from(["batch", "sync_batch", "group", "group1"])
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "se_ratio": st.sampled_from([0.0625, 0.25]),
        "stochastic_depth": st.sampled_from([0.1, 0.5]),
        "antialias": st.booleans(),
        "shortcut": st.sampled_from(["A", "B", "C", "D", "none"]),
        "norm": NORMS,
        "weight_standardization": st.booleans(),
        "activation": st.sampled_from(["relu", "gelu", "silu"]),
        "output_stride": st.sampled_from([2, 4, 8, 16, 32]),
        "zero_init_gamma": st.booleans(),
        "dropout": st.sampled_from([0.0, 0.3]),
        "stem": st.sampled_from(["imagenet", "cifar", "cifar_pool", "deep", "deep_strided"]),
    },
)
POST = {"depth": 50, "blocks": (2, 1, 1), "widths": (8, 16, 16), "stem_width": 16}
FAMILIES: dict[str, dict[str, Any]] = {
    "post-activation": POST,
    "grouped": {**POST, "cardinality": 4, "base_width": 16},
    "pre-activation": {"depth": 18, "variant": "v2", "blocks": (1, 2, 1), "widths": (8, 8, 16), "stem_width": 8},
    "CIFAR": {"depth": 8, "widths": (8, 16, 32), "stem_width": 8},
}
REFUSALS = (
    "would silence a plain net|preactivation clears the way|output_stride of this net can be|only adds channels|"
    "zero_init_gamma starts"
)


def build(family: str, size: int, options: dict[str, Any]) -> keras.Model:
    builder = rk.build_cifar_resnet if family == "CIFAR" else rk.build_resnet
    arguments = {"classes": 3, "classifier_activation": None, "input_shape": (size, size, 3)}
    return builder(**{**FAMILIES[family], **arguments, **options})


def runs_or_is_refused_in_words(family: str, size: int, options: dict[str, Any]) -> None:
    try:
        model = build(family, size, options)
    except UsageError as refused:
        message = str(refused)
    else:
        message = ""
        check(model, size)
    assert not message or re.search(REFUSALS, message)


def check(model: keras.Model, size: int) -> None:
    """It comes back from its config, answers, learns in every weight, and says its shapes rightly."""
    again = keras.Model.from_config(model.get_config())
    assert [weight.shape for weight in again.weights] == [weight.shape for weight in model.weights]
    randomise(model)
    again.set_weights(model.get_weights())
    x = RNG.normal(size=(2, size, size, 3)).astype("float32")
    out = model(x).numpy()
    np.testing.assert_array_equal(again(x), out)
    assert np.isfinite(out).all()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(model(x, training=True)))
    assert all(gradient is not None for gradient in tape.gradient(loss, model.trainable_weights))
    for layer in model.layers:
        if not layer.name.startswith(("image", "card")):
            assert layer.compute_output_shape(layer.input.shape) == layer.output.shape


# A few draws each time; more of them are slow.
FEW_AND_MANY = pytest.mark.parametrize(
    "few", [pytest.param(True, id="few"), pytest.param(False, id="many", marks=pytest.mark.slow)]
)


@FEW_AND_MANY
def test_any_combination_runs_or_is_refused_in_words(few: bool) -> None:
    drawn = given(family=st.sampled_from(sorted(FAMILIES)), size=st.sampled_from([32, 37]), options=OPTIONS)
    settings(CALM, max_examples=12 if few else 40)(drawn(runs_or_is_refused_in_words))()


@FEW_AND_MANY
def test_options_of_vgg_and_densenet(few: bool) -> None:
    drawn = given(
        norm=NORMS,
        standard=st.booleans(),
        activation=st.sampled_from(["relu", "gelu"]),
        dropout=st.sampled_from([0.0, 0.2]),
        se_ratio=st.sampled_from([0.0, 0.25]),
        bottleneck=st.booleans(),
    )
    settings(CALM, max_examples=4 if few else 12)(drawn(vgg_and_densenet_run_and_come_back))()


def vgg_and_densenet_run_and_come_back(norm, standard, activation, dropout, se_ratio, bottleneck) -> None:
    x = RNG.normal(size=(2, 33, 33, 3)).astype("float32")
    common = {"norm": norm, "weight_standardization": standard, "activation": activation, "dropout": dropout}
    common |= {"classes": 3, "input_shape": (33, 33, 3)}
    vgg = rk.build_vgg(11, widths=(4, 4, 8, 8, 8), hidden=16, **common)
    own = {"growth_rate": 4, "stem_width": 8, "layers": (2, 1, 1, 1), "layer_dropout": dropout}
    densenet = rk.build_densenet(121, **common, **own, se_ratio=se_ratio, bottleneck=bottleneck)
    for model in (vgg, densenet):
        assert np.isfinite(model(x, training=True)).all()
        again = keras.Model.from_config(model.get_config())
        again.set_weights(model.get_weights())
        np.testing.assert_array_equal(again(x), model(x))


@pytest.mark.parametrize(
    ("arguments", "stride"),
    [
        ({"depth": 50}, 8),
        ({"depth": 50}, 16),
        ({"depth": 18}, 8),
        ({"depth": 50, "variant": "v1"}, 8),
        ({"depth": 18, "variant": "v2"}, 16),
        ({"depth": 50, "variant": "v2_slim"}, 8),
    ],
    ids=str,
)
def test_dilation_computes_the_same_features_at_more_places(arguments: dict, stride: int) -> None:
    """Where the strided net has a pixel, the dilated one has the same number there (Chen et al. 2017, section 3.1)."""
    shape = {"include_top": False, "input_shape": (64, 96, 3), "widths": (8, 8, 16, 16), "stem_width": 8}
    shape["blocks"] = (2, 2, 2, 2)  # a block that strides and one that follows it, in each stage
    strided, dilated = (rk.build_resnet(**arguments, **shape, output_stride=s) for s in (32, stride))
    randomise(strided)
    dilated.set_weights(strided.get_weights())
    x = RNG.normal(size=(1, 64, 96, 3)).astype("float32")
    expected, out = strided(x).numpy(), dilated(x).numpy()
    assert out.shape == (1, 64 // stride, 96 // stride, strided.output_shape[-1])
    np.testing.assert_allclose(out[:, :: 32 // stride, :: 32 // stride], expected, atol=1e-4 * np.abs(expected).max())


def test_stochastic_depth_rises_along_a_line_and_drops_whole_branches() -> None:
    model = rk.build_cifar_resnet(20, stochastic_depth=0.4, shortcut="B", input_shape=(8, 8, 3))
    blocks = [layer for layer in model.layers if "block" in layer.name]
    np.testing.assert_allclose([block.drop_rate for block in blocks], np.linspace(0, 0.4, 9))
    block = blocks[-1]
    x = np.abs(RNG.normal(size=(4000, 2, 2, 64))).astype("float32")
    block.branch[-2].layers[-1].gamma.assign(tf.ones(64))
    branch = block(x) - x  # positive inputs pass the last ReLU where the branch is dropped
    trained = block(x, training=True) - x
    dropped = np.all(trained.numpy() == 0, axis=(1, 2, 3))
    assert dropped.mean() == pytest.approx(0.4, abs=0.03)  # 4 standard errors of 4,000 draws
    assert np.abs(branch).max() > 0


def test_stochastic_depth_by_stage() -> None:
    """ResNet-RS's code: rate times 2/5, 3/5, 4/5 and 1 in the four stages."""
    options: dict[str, Any] = {"stochastic_depth": 0.1, "stochastic_depth_by": "stage"}
    model = rk.build_resnet(18, input_shape=(32, 32, 3), **options)
    rates = [layer.drop_rate for layer in model.layers if "block" in layer.name]
    np.testing.assert_allclose(rates, [0.04, 0.04, 0.06, 0.06, 0.08, 0.08, 0.1, 0.1])


def test_resnet_rs_starts_as_tensorflow_1() -> None:
    """Kernels of variance 1 / fan in, none beyond two deviations of the normal that was cut."""
    block = rk.create_model("resnetrs50", blocks=(1, 1, 1, 1), input_shape=(64, 64, 3)).get_layer("stage4_block1")
    kernels = [w.numpy() for w in block.trainable_weights if w.path.endswith("kernel")]
    assert len(kernels) == 6  # the branch's three, squeeze-and-excitation's two, the projection's
    for kernel in kernels:
        std = 1 / np.sqrt(np.prod(kernel.shape[:-1]))
        assert kernel.std() == pytest.approx(std, rel=0.01)
        assert np.abs(kernel).max() < 2.3 * std


@pytest.mark.parametrize("build", [rk.build_cifar_resnet, rk.build_densenet])
def test_a_heads_first_weights(build: Any) -> None:
    """Normal with the spec's deviation, He's where it has none; and a head is known by either."""
    shape: dict[str, Any] = {"input_shape": (32, 32, 3), "classes": 200}
    small = {"depth": 8} if build is rk.build_cifar_resnet else {"depth": 121, "layers": "1,1,1,1"}
    for std in (0.0, 0.01):
        model = build(**small, **shape, head_std=std)
        kernel = model.get_layer("logits").kernel.numpy()
        assert kernel.std() == pytest.approx(std or np.sqrt(2 / kernel.shape[0]), rel=0.1)
        assert has_head_of_card(model)


def test_stochastic_depth_keeps_the_mean() -> None:
    from resnet_keras.models.layers import dropped_branch

    ones = dropped_branch(0.25, "float32")(np.ones((20000, 1, 1, 2), "float32"), training=True).numpy()
    np.testing.assert_allclose(np.unique(ones), [0, 1 / 0.75], rtol=1e-6)
    assert ones.mean() == pytest.approx(1, abs=0.015)
    assert (ones[..., 0] == ones[..., 1]).all()


def test_antialiasing_makes_features_move_with_the_image() -> None:
    """A circular shift of the input by one pixel changes pooled features less (Zhang 2019)."""
    distances = []
    for antialias in (False, True):
        model = rk.build_resnet(18, antialias=antialias, include_top=False, pooling="avg", widths=(16, 16, 32, 32))
        randomise(model)
        x = tf.image.resize(RNG.normal(size=(8, 32, 32, 3)), (128, 128)).numpy()
        features, moved = model(x).numpy(), model(np.roll(x, 1, axis=2)).numpy()
        distances.append(np.linalg.norm(features - moved) / np.linalg.norm(features - features.mean(0)))
    assert distances[1] < 0.7 * distances[0]


def test_antialiased_stem_and_shortcuts() -> None:
    model = rk.build_resnet(18, antialias=True, input_shape=(64, 64, 3))
    assert [layer.name for layer in model.get_layer("stage2_block1").bypass] == ["blur", "projection"]
    assert [layer.name for layer in model.get_layer("stage2_block1").branch[0].layers][-1] == "blur"
    assert model.get_layer("stem_blur").output.shape == (None, 16, 16, 64)
    assert not any(layer.name == "blur" for layer in model.get_layer("stage1_block1").layers)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("resnet18", [7, 43, 99, 211, 435]),
        ("resnet50_v1", [7, 35, 99, 291, 483]),  # the last: Araujo et al. 2019, Table 1
        pytest.param("resnet50", [7, 35, 91, 267, 427], marks=pytest.mark.slow),  # 2 s
        ("vgg16", [5, 14, 40, 92, 196]),
        pytest.param("densenet121", [7, 59, 255], marks=pytest.mark.slow),  # 3 s
    ],
)
def test_receptive_fields(name: str, fields: list[int]) -> None:
    """The width that one feature of each stage sees: 1 + sum of (kernel - 1) x (pixels from one input to the next).

    Narrow nets of the published depth: the width of a stage changes nothing.
    """
    side = {"vgg16": 256, "densenet121": 320}.get(name, 512)
    fixed: dict[str, Any] = {"include_top": False, "activation": "linear", "input_shape": (side, side, 3)}
    # Not below 16, where oneDNN corrupts its heap in the gradient of a projection (docs/building.md).
    narrow: dict[str, Any] = {"widths": (16, 16, 16, 16), "stem_width": 16}
    narrow = {"vgg16": {"widths": (8,) * 5}, "densenet121": {"growth_rate": 8, "stem_width": 8}}.get(name, narrow)
    pyramid = rk.feature_pyramid(rk.create_model(name, **fixed, **narrow))
    for weight in pyramid.weights:
        shape, is_scale = tuple(weight.shape), weight.name in ("gamma", "moving_variance")
        weight.assign(np.full(shape, 1 / np.prod(shape[:-1])) if len(shape) > 1 else np.full(shape, float(is_scale)))
    # A max-pool's gradient reaches one pixel of nine, so that it takes a few images to find the outermost.
    x = tf.constant(np.random.default_rng(0).normal(size=(3, side, side, 3)), tf.float32)
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(x)
        maps = pyramid(x)
        centres = [tf.reduce_sum(maps[key][:, maps[key].shape[1] // 2, maps[key].shape[2] // 2]) for key in maps]
    for centre, expected in zip(centres, fields, strict=False):
        gradient = np.asarray(tape.gradient(centre, x))
        columns = np.flatnonzero(np.abs(gradient).sum((0, 1, 3)))
        assert columns.max() - columns.min() + 1 == expected


def test_options_survive_saving(tmp_path: Path) -> None:
    model = build("post-activation", 32, {"antialias": True, "stochastic_depth": 0.2, "norm": "group", "dropout": 0.1})
    randomise(model)
    model.save(tmp_path / "a.keras")
    again = keras.models.load_model(tmp_path / "a.keras")
    x = RNG.normal(size=(1, 32, 32, 3)).astype("float32")
    np.testing.assert_array_equal(model(x), again(x))


def test_the_old_word_for_one_group_is_read(tmp_path: Path) -> None:
    """Up to 0.1 `norm="layer"` was what is `group1` now: in calls, `.keras` files and `.weights.h5` files."""
    options: dict[str, Any] = {"norm": "group1", "input_shape": (8, 8, 3), "variant": "v2", "block": "basic"}
    model = rk.build_cifar_resnet(8, **options)
    randomise(model)
    old = rk.build_cifar_resnet(8, **{**options, "norm": "layer"})
    assert old.get_config()["layers"] == model.get_config()["layers"]
    model.save(tmp_path / "new.keras")
    with zipfile.ZipFile(tmp_path / "new.keras") as new, zipfile.ZipFile(tmp_path / "old.keras", "w") as file:
        for name in new.namelist():
            file.writestr(name, new.read(name).replace(b'"norm": "group1"', b'"norm": "layer"'))
        assert new.read("config.json").count(b'"norm": "group1"') >= 4
    x = RNG.normal(size=(1, 8, 8, 3)).astype("float32")
    again = rk.load_model(tmp_path / "old.keras")
    np.testing.assert_array_equal(again(x), model(x))
    old.load_weights(tmp_path / "old.keras")
    np.testing.assert_array_equal(old(x), model(x))
    model.save_weights(tmp_path / "old.weights.h5")
    with h5py.File(tmp_path / "old.weights.h5", "r+") as file:
        file.attrs["resnet_keras"] = str(file.attrs["resnet_keras"]).replace("group1", "layer")
    again.load_weights(tmp_path / "old.weights.h5")
    np.testing.assert_array_equal(again(x), model(x))
