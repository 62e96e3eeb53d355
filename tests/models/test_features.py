"""Feature pyramids, and what freezing keeps as it is."""

import functools
from pathlib import Path

import keras
import numpy as np
import pytest
from small import randomise

import resnet_keras as rk
from resnet_keras.config.train import Optimizer
from resnet_keras.errors import UsageError
from resnet_keras.training.devices import make_strategy
from resnet_keras.training.optimizers import parameter_groups

RNG = np.random.default_rng(0)


def side_of(name: str, length: int, stride: int) -> int:
    """Pixels along a side of a map: ResNets round up where they halve, the pools of VGG and of transitions down."""
    if name == "vgg11":
        return length // stride
    if name == "densenet121":
        return -(-length // min(stride, 4)) // max(1, stride // 4)
    return -(-length // stride)


@functools.cache
def pyramid_of(name: str) -> keras.Model:
    return rk.feature_pyramid(rk.create_model(name, include_top=False, input_shape=(None, None, 3)))


@pytest.mark.parametrize(
    ("name", "strides", "channels"),
    [
        ("resnet18", [2, 4, 8, 16, 32], [64, 64, 128, 256, 512]),
        ("resnet50", [2, 4, 8, 16, 32], [64, 256, 512, 1024, 2048]),
        ("resnet50_v2", [2, 4, 8, 16, 32], [64, 256, 512, 1024, 2048]),
        # 1 to 2 s each, with the stages of the two before.
        pytest.param("resnet50_v2_slim", [2, 4, 8, 16, 32], [64, 256, 512, 1024, 2048], marks=pytest.mark.slow),
        pytest.param("resnetrs50", [2, 4, 8, 16, 32], [64, 256, 512, 1024, 2048], marks=pytest.mark.slow),
        ("cifar_resnet20", [1, 1, 2, 4], [16, 16, 32, 64]),
        ("densenet121", [2, 4, 8, 16, 32], [64, 256, 512, 1024, 1024]),
        ("vgg11", [1, 2, 4, 8, 16], [64, 128, 256, 512, 512]),
    ],
)
@pytest.mark.parametrize("size", [pytest.param((64, 96), marks=pytest.mark.slow), (75, 49)])
def test_pyramid_sizes(name: str, strides: list[int], channels: list[int], size: tuple[int, int]) -> None:
    pyramid = pyramid_of(name)
    maps = pyramid(np.zeros((1, *size, 3), "float32"))
    names = [f"stage{i}" for i in range(1, 6)] if name == "vgg11" else ["stem", *(f"stage{i}" for i in range(1, 5))]
    assert list(maps) == names[: len(strides)]
    expected = [(1, *(side_of(name, n, s) for n in size), c) for s, c in zip(strides, channels, strict=True)]
    assert [tuple(m.shape) for m in maps.values()] == expected


def test_pyramid_shares_the_weights_and_needs_a_network_of_ours() -> None:
    model = rk.build_cifar_resnet(20)
    randomise(model)
    x = RNG.normal(size=(1, 32, 32, 3)).astype("float32")
    last = keras.Model(model.input, model.get_layer("stage3_block3").output)
    np.testing.assert_array_equal(rk.feature_pyramid(model)(x)["stage3"], last(x))
    preactivation = rk.build_cifar_resnet(20, "v2")
    pyramid = rk.feature_pyramid(preactivation)
    final = keras.Model(preactivation.input, preactivation.get_layer("final_norm").output)
    np.testing.assert_array_equal(pyramid(x)["stage3"], final(x))
    inputs = keras.Input((8,))
    with pytest.raises(UsageError, match="is not one of our networks"):
        rk.feature_pyramid(keras.Model(inputs, keras.layers.Dense(2)(inputs)))


def step(model: keras.Model, optimizer: keras.optimizers.Optimizer | None = None) -> dict[str, np.ndarray]:
    """One step of training; how far each variable went. Eager, for a trace takes longer than the step."""
    before = {weight.path: weight.numpy().copy() for weight in model.weights}
    model.compile(optimizer or "sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    rng = np.random.default_rng(0)
    model.train_on_batch(rng.normal(2, 3, size=(8, 16, 16, 3)).astype("float32"), np.arange(8) % 3)
    return {weight.path: np.abs(weight.numpy() - before[weight.path]).max() for weight in model.weights}


def net() -> keras.Model:
    return rk.build_cifar_resnet(8, classes=3, input_shape=(16, 16, 3), shortcut="B")


def moved(change: dict[str, np.ndarray]) -> set[str]:
    return {path.split("/")[0] for path, distance in change.items() if distance > 0}


LAYERS = {"stem", "stage1_block1", "stage2_block1", "stage3_block1", "logits"}


@pytest.mark.parametrize(
    ("through", "learning"),
    [
        (None, {"logits"}),
        ("stem", LAYERS - {"stem"}),
        ("stage2", {"stage3_block1", "logits"}),
        ("stage3_block1", {"logits"}),
        ("logits", set()),
    ],
)
def test_what_is_frozen_stays_to_the_bit_and_its_statistics_too(through: str | None, learning: set[str]) -> None:
    model = net()
    assert set(rk.freeze(model, through)) == LAYERS - learning
    if learning:
        assert moved(step(model)) == learning
    assert {weight.path.split("/")[0] for weight in model.trainable_weights} == learning


def test_a_trap_of_keras_is_what_freeze_avoids() -> None:
    """With only its weights fixed, a batch norm's statistics would move; with the norm frozen they do not."""
    model = net()
    statistics = {weight.path for weight in model.weights if "moving" in weight.path}
    change = step(model)
    assert all(change[path] > 0 for path in statistics)
    assert rk.freeze_norms(model) == 1 + 3 * 2 + 2
    change = step(model)
    assert all(distance == 0 for path, distance in change.items() if "/norm/" in path)
    assert all(distance > 0 for path, distance in change.items() if path.endswith("kernel"))
    x = RNG.normal(2, 3, size=(8, 16, 16, 3)).astype("float32")
    np.testing.assert_array_equal(model(x, training=True), model(x, training=False))


def test_unfreezing_leaves_the_norms() -> None:
    model = net()
    rk.freeze(model)
    assert rk.unfreeze(model, "stage3") == ["stage3_block1", "logits"]
    change = step(model)
    assert moved(change) == {"stage3_block1", "logits"}
    assert not any(distance > 0 and "/norm/" in path for path, distance in change.items())
    assert set(rk.unfreeze(model, norms=True)) == LAYERS
    assert [path for path, distance in step(model).items() if distance == 0] == []


@pytest.mark.parametrize(
    ("way", "part"),
    [
        ("file", "norms"),
        ("file", "stage2"),
        ("config", None),
        # 1 s each: a file has the config, and a block is frozen as a stage is.
        *(
            pytest.param(way, part, marks=pytest.mark.slow)
            for way, part in (
                ("file", None),
                ("file", "stage2_block1"),
                ("config", "norms"),
                ("config", "stage2"),
                ("config", "stage2_block1"),
            )
        ),
    ],
)
def test_what_is_frozen_is_frozen_when_it_comes_back(part: str | None, way: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)  # another seed may give a gate that is dead for all eight images
    model = rk.build_cifar_resnet(8, classes=3, input_shape=(16, 16, 3), shortcut="B", se_ratio=0.25)
    if part == "norms":
        rk.freeze_norms(model)
    else:
        rk.freeze(model, part)
        rk.unfreeze(model, "stage3")  # its norms stay
    if way == "file":
        model.save(tmp_path / "a.keras")
        again = rk.load_model(tmp_path / "a.keras")
    else:
        again = keras.Model.from_config(model.get_config())
    learning = [weight.path for weight in model.trainable_weights]
    assert [weight.path for weight in again.trainable_weights] == learning
    assert 0 < len(learning) < len(model.weights)
    change = step(again)
    assert {path for path, distance in change.items() if distance > 0} == set(learning)
    for unfrozen in (model, again):
        rk.unfreeze(unfrozen, norms=True)
    assert len(again.trainable_weights) == len(model.trainable_weights) == len(model.weights) - 2 * 9


def test_a_network_inside_another_model_is_not_meant() -> None:
    nested = keras.Sequential([rk.build_cifar_resnet(8, include_top=False, pooling="avg"), keras.layers.Dense(2)])
    for helper in (rk.freeze, rk.unfreeze):
        with pytest.raises(UsageError, match="give the network itself where it holds one"):
            helper(nested)


@pytest.mark.parametrize("helper", [rk.freeze, rk.unfreeze])
def test_an_unknown_part_is_refused(helper) -> None:
    with pytest.raises(UsageError, match="unknown part of cifar_resnet8 'stage4'; choose from stem, stage1_block1"):
        helper(net(), "stage4")


def test_layers_learn_at_decaying_rates() -> None:
    """The head at the full rate, each layer with weights before it at half; frozen ones do not count."""
    model = net()
    config = Optimizer(0.1, layer_decay=0.5)
    groups = parameter_groups(config, model.weights)
    by_layer = {w.path.split("/")[0]: group.rate for w, group in zip(model.weights, groups, strict=True)}
    order = ["stem", "stage1_block1", "stage2_block1", "stage3_block1", "logits"]
    assert by_layer == {layer: 0.5 ** (4 - i) for i, layer in enumerate(order)}
    rk.freeze(model, "stage2")
    assert {group.rate for group in parameter_groups(config, model.trainable_weights)} == {0.5, 1.0}


def test_decay_spares_vectors_and_named_layers() -> None:
    model = net()
    config = Optimizer(0.1, weight_decay=0.3, no_decay=("logits", "stage1_*"))
    decayed = {w.path for w, s in zip(model.weights, parameter_groups(config, model.weights), strict=True) if s.decay}
    assert decayed == {
        w.path for w in model.weights if len(w.shape) > 1 and not w.path.startswith(("logits", "stage1_"))
    }
    assert {s.decay for s in parameter_groups(config, model.weights)} == {0.0, 0.3}
    with pytest.raises(UsageError, match="unknown layer in no_decay 'head'"):
        parameter_groups(Optimizer(no_decay=("head",)), model.weights)


def test_frozen_models_train_under_a_strategy() -> None:
    with make_strategy("mirrored").scope():
        model = net()
        rk.freeze(model, "stage1")
        model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
    before = {weight.path: weight.numpy().copy() for weight in model.weights}
    model.fit(RNG.normal(size=(8, 16, 16, 3)).astype("float32"), np.arange(8) % 3, batch_size=8, verbose=0)
    change = {weight.path: np.abs(weight.numpy() - before[weight.path]).max() for weight in model.weights}
    assert moved(change) == {"stage2_block1", "stage3_block1", "logits"}
