"""Weights from elsewhere: keras.applications, KerasHub, files of every kind, the Hub's cache; refusals."""

import hashlib
import json
import pickle
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from small import randomise
from test_layer_norm_weights import in_their_names

import resnet_keras as rk
from resnet_keras.errors import UsageError
from resnet_keras.models.registry import OFFER, PACKAGED, hub_name
from resnet_keras.models.spec import imagenet_spec
from resnet_keras.models.weights.layouts import LAYOUTS
from resnet_keras.models.weights.weight_layers import WeightLayers

RNG = np.random.default_rng(0)
PEERS = {
    "ResNet50": "resnet50_v1",
    "ResNet101": "resnet101_v1",
    "ResNet50V2": "resnet50_v2_slim",
    "VGG16": "vgg16",
    "DenseNet121": "densenet121",
}
SHORT: dict[str, dict[str, Any]] = {
    "ResNet50": {"blocks": (2, 1, 1, 2), "widths": (32, 40, 48, 56)},
    "ResNet50V2": {"blocks": (3, 2, 2, 2), "widths": (32, 40, 48, 56)},
    "DenseNet121": {"layers": (2, 1, 2, 1)},
}
"""Fields of the same networks with fewer layers."""


def peer(name: str, size: int, short: bool = False, **arguments: Any) -> keras.Model:
    """A network of keras.applications with random weights, biases and statistics; or a short one by its functions."""
    build: Any = short_peer if short else lambda name, **arguments: getattr(keras.applications, name)(**arguments)
    arguments = {"classes": 10, "classifier_activation": None, **arguments}
    model = build(name, weights=None, input_shape=(size, size, 3), **arguments)
    randomise(model)
    return model


def short_peer(name: str, **arguments: Any) -> keras.Model:
    """What keras.applications' own functions build of `SHORT`."""
    from keras.src.applications import densenet, resnet

    if name == "DenseNet121":
        return densenet.DenseNet(SHORT[name]["layers"], name=name.lower(), **arguments)
    preactivation = name == "ResNet50V2"
    stack = resnet.stack_residual_blocks_v2 if preactivation else resnet.stack_residual_blocks_v1

    def stages(x: Any) -> Any:
        last = len(SHORT[name]["blocks"]) - 1
        for i, (blocks, filters) in enumerate(zip(SHORT[name]["blocks"], SHORT[name]["widths"], strict=True)):
            keeps_size = i == (last if preactivation else 0)
            x = stack(x, filters, blocks, stride1=1 if keeps_size else 2, name=f"conv{i + 2}")
        return x

    return resnet.ResNet(stages, preactivation, True, name=name.lower(), **arguments)


def assert_same_logits(ours: keras.Model, theirs: keras.Model, size: int) -> None:
    images = RNG.normal(size=(2, size, size, 3)).astype("float32")
    expected = theirs(images).numpy()
    # float32 sums of thousands of products, in another order, through a hundred layers
    np.testing.assert_allclose(ours(images), expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert np.ptp(expected) > 0.1


@pytest.mark.parametrize(
    ("name", "size"),
    [
        pytest.param("ResNet50", 224, marks=pytest.mark.slow),  # 5 to 20 seconds each; short ones are below
        pytest.param("ResNet50", 97, marks=pytest.mark.slow),
        pytest.param("ResNet50V2", 97, marks=pytest.mark.slow),
        pytest.param("DenseNet121", 97, marks=pytest.mark.slow),
        pytest.param("ResNet101", 224, marks=pytest.mark.slow),
        pytest.param("ResNet101", 193, marks=pytest.mark.slow),
        pytest.param("ResNet50V2", 224, marks=pytest.mark.slow),
        pytest.param("VGG16", 224, marks=pytest.mark.slow),
        pytest.param("VGG16", 225, marks=pytest.mark.slow),
        pytest.param("DenseNet121", 224, marks=pytest.mark.slow),
    ],
)
def test_keras_applications(name: str, size: int) -> None:
    """The published nets, by another hand: random weights and statistics, biases folded, the same logits."""
    theirs = peer(name, size)
    ours = rk.create_model(PEERS[name], classes=10, classifier_activation=None, input_shape=(size, size, 3))
    rk.load_weights(ours, theirs)
    assert_same_logits(ours, theirs, size)


@pytest.mark.parametrize("size", [64, 97])
@pytest.mark.parametrize("name", SHORT)
def test_keras_applications_in_short(name: str, size: int) -> None:
    """The same with fewer layers of each kind."""
    theirs = peer(name, size, short=True)
    assert len(theirs.layers) < 120  # of 192 to 429
    own: dict[str, Any] = {**SHORT[name], "input_shape": (size, size, 3)}
    ours = rk.create_model(PEERS[name], classes=10, classifier_activation=None, **own)
    rk.load_weights(ours, theirs)
    assert_same_logits(ours, theirs, size)


def test_keras_applications_v2_has_our_parameters_and_its_biases() -> None:
    theirs = keras.applications.ResNet50V2(weights=None)
    ours = rk.create_model("resnet50_v2_slim")
    network = WeightLayers(ours)
    ends = [path for path in network.by_path if path.endswith(("conv3/conv", "projection/conv"))]
    biases = sum(network.by_path[path].layer.filters for path in ends)
    assert theirs.count_params() == ours.count_params() + biases == 25_613_800


@pytest.mark.parametrize(
    ("theirs", "ours", "message"),
    [
        ("ResNet50", "resnet50", "resnet50 strides in the 3x3 of a block, keras.applications' in its first.* 'v1'"),
        ("ResNet50V2", "resnet50_v2", "resnet50_v2 strides in the first block of a stage.*build variant 'v2_slim'"),
    ],
)
def test_weights_that_would_fit_and_answer_wrongly_are_refused(theirs: str, ours: str, message: str) -> None:
    source = peer(theirs, 64, short=True)
    with pytest.raises(UsageError, match=message):
        rk.load_weights(rk.create_model(ours, classes=10, **SHORT[theirs]), source)


@pytest.mark.parametrize(
    ("module", "theirs", "name"),
    [
        (keras.applications.resnet, "ResNet50", "resnet50_v1"),
        # 2 s each: their weights are loaded above.
        pytest.param(keras.applications.resnet_v2, "ResNet50V2", "resnet50_v2_slim", marks=pytest.mark.slow),
        pytest.param(keras.applications.densenet, "DenseNet121", "densenet121", marks=pytest.mark.slow),
    ],
    ids=["resnet", "resnet_v2", "densenet"],
)
def test_keras_applications_cards(module: Any, theirs: str, name: str) -> None:
    """What their `preprocess_input` does, as a card."""
    pixels = RNG.integers(0, 256, (1, 64, 64, 3)).astype("float32")
    source = peer(theirs, 64, short=True, include_top=False)
    ours = rk.create_model(name, include_top=False, **SHORT[theirs])
    rk.load_weights(ours, source)
    expected = module.preprocess_input(pixels.copy())
    np.testing.assert_allclose(rk.preprocess_input(pixels, ours), expected, rtol=1e-4, atol=1e-3)
    own: dict[str, Any] = {**SHORT[theirs], "input_shape": (64, 64, 3)}
    raw = rk.create_model(name, include_top=False, include_preprocessing=True, **own)
    before = raw.predict(pixels, verbose=0)  # compiled with the old card
    rk.load_weights(raw, source)
    np.testing.assert_allclose(raw.predict(pixels, verbose=0), ours(expected), rtol=1e-3, atol=1e-3)
    assert not np.allclose(before, raw.predict(pixels, verbose=0))


def small(name: str = "cifar_resnet20", **arguments: Any) -> keras.Model:
    model = rk.create_model(name, classifier_activation=None, **arguments)
    randomise(model)
    return model


def same_weights(one: keras.Model, other: keras.Model) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one.get_weights(), other.get_weights(), strict=True))


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".keras", ".weights.h5"])
def test_files_go_round(suffix: str, tmp_path: Path) -> None:
    model, path = small(), tmp_path / f"a{suffix}"
    if suffix == ".keras":
        model.save(path)
    elif suffix == ".weights.h5":
        model.save_weights(path)
    else:
        assert rk.save_weights(model, path) == path
    again = rk.create_model("cifar_resnet20", weights=path)
    assert same_weights(model, again)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "name",
    [
        "cifar_resnet20",
        "seresnet50",
        "densenet121",
        # 1 to 2 s each: the names of all their parts are in the three before.
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("cifar_preact_resnet110", "resnet18_cifar", "resnet50d")
        ),
    ],
)
def test_state_dict_goes_round(name: str) -> None:
    arguments: dict[str, Any] = {"input_shape": (32, 32, 3), "classes": 3}
    stages = 3 if name in ("cifar_resnet20", "cifar_preact_resnet110") else 4
    arguments["layers" if name == "densenet121" else "blocks"] = (3, 2, 1, 2)[:stages]
    model = small(name, **arguments)
    state = rk.torch_state_dict(model)
    assert all(array.dtype == np.float32 or key.endswith("num_batches_tracked") for key, array in state.items())
    again = rk.create_model(name, **arguments)
    rk.load_weights(again, state)
    assert same_weights(model, again)


def in_one_list(state: dict[str, np.ndarray], names: dict[str, str]) -> dict[str, np.ndarray]:
    """A state dict of a CIFAR net of two blocks a stage, with its blocks in one list."""
    renamed = {}
    for key, array in state.items():
        key = re.sub(r"^layer(\d)\.(\d)", lambda m: f"{names['blocks']}.{2 * int(m[1]) - 2 + int(m[2])}", key)
        for usual in ("conv1.", "bn1.", "linear."):
            key = re.sub(rf"^{re.escape(usual)}", f"{names.get(usual, usual[:-1])}.", key)
        renamed[key.replace("shortcut", names.get("shortcut", "shortcut"))] = array
    return renamed


@pytest.mark.parametrize(
    "names",
    [
        {"blocks": "convs", "conv1.": "conv0", "bn1.": "bn0", "linear.": "fc"},
        {"blocks": "blocks", "conv1.": "stem.0", "bn1.": "stem.1", "linear.": "head", "shortcut": "downsample"},
    ],
)
def test_blocks_in_one_list(names: dict[str, str]) -> None:
    model = small("cifar_resnet20", blocks=(2, 2, 2), shortcut="B")
    state = in_one_list(rk.torch_state_dict(model), names)
    assert f"{names['blocks']}.5.conv2.weight" in state
    again = rk.create_model("cifar_resnet20", blocks=(2, 2, 2), shortcut="B")
    rk.load_weights(again, state)
    assert same_weights(model, again)
    biased = {**state, f"{names['blocks']}.0.conv1.bias": np.ones(16, "float32")}
    rk.load_weights(again, biased)  # into the mean of the norm
    moved = again.get_layer("stage1_block1").branch[0].layers[1].moving_mean
    np.testing.assert_allclose(moved, state[f"{names['blocks']}.0.bn1.running_mean"] - 1, rtol=1e-6)

    padded = in_one_list(rk.torch_state_dict(small("cifar_resnet20", blocks=(2, 2, 2))), names)
    for shortcut in ("A", "none"):
        options = {"blocks": (2, 2, 2), "shortcut": shortcut}
        refused(small("cifar_resnet20", **options), padded, "whether shortcuts are there, leave pixels out, average")
    refused(small("cifar_resnet20", blocks=(2, 2, 2), shortcut="D"), state, "whether shortcuts are there")
    refused(again, padded, r"\.2\.(shortcut|downsample)\.0\.weight.* missing there")


def test_bottlenecks_in_one_list_do_not_say_where_they_stride() -> None:
    model = small("cifar_resnext29_8x64d", blocks=(2, 2, 2), widths=(4, 4, 8), cardinality=1)
    state = in_one_list(rk.torch_state_dict(model), {"blocks": "blocks", "conv1.": "stem.0", "bn1.": "stem.1"})
    refused(model, state, "do not say where their bottlenecks stride")


def test_cifar_names_are_the_usual_ones() -> None:
    state = rk.torch_state_dict(small())
    assert state["layer2.0.conv1.weight"].shape == (32, 16, 3, 3)
    assert state["linear.weight"].shape == (10, 64)
    assert len([key for key in state if not key.endswith("num_batches_tracked")]) == 19 * 5 + 2
    wrapped = {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}
    again = rk.create_model("cifar_resnet20")
    rk.load_weights(again, wrapped)
    assert same_weights(small(), again)
    shortcut = rk.torch_state_dict(rk.build_cifar_resnet(20, shortcut="B"))
    assert "layer2.0.shortcut.0.weight" in shortcut


def as_keras_2(model: keras.Model, path: Path, weights_only: bool) -> None:
    """Write a model as Keras 2 did, with a group and an attribute a layer."""
    with h5py.File(path, "w") as file:
        root = file if weights_only else file.create_group("model_weights")
        root.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            group = root.create_group(layer.name)
            names = [f"{weight.path}:0" for weight in layer.weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, layer.weights, strict=True):
                group[name] = weight.numpy()


@pytest.mark.parametrize("weights_only", [True, pytest.param(False, marks=pytest.mark.slow)])  # 2 s
def test_keras_applications_files(weights_only: bool, tmp_path: Path) -> None:
    theirs = peer("ResNet50", 64, short=True)
    own_arguments: dict[str, Any] = {"classes": 10, "input_shape": (64, 64, 3), **SHORT["ResNet50"]}
    ours, from_file = (rk.build_resnet(50, "v1", **own_arguments) for _ in range(2))
    rk.load_weights(ours, theirs)
    path = tmp_path / "resnet50_weights.h5"
    as_keras_2(theirs, path, weights_only)
    rk.load_weights(from_file, path)
    assert same_weights(ours, from_file)
    whole_file, own = tmp_path / "own.h5", small()
    as_keras_2(own, whole_file, weights_only)
    again = rk.create_model("cifar_resnet20")
    rk.load_weights(again, whole_file)
    assert same_weights(own, again)
    theirs.save(tmp_path / "a.keras")
    whole = rk.build_resnet(50, "v1", **own_arguments, weights=tmp_path / "a.keras")
    assert same_weights(ours, whole)


HUB: dict[str, Any] = {"input_shape": (32, 32, 3), "classes": 4, "blocks": (3, 1, 2, 1)}


def keras_hub_twin(name: str) -> dict[str, np.ndarray]:
    """KerasHub's names for the weights of a network of ours (its ResNetBackbone: stack0_block0_1_conv ...)."""
    state: dict[str, np.ndarray] = {}
    for path, unit in WeightLayers(small(name, **HUB)).by_path.items():
        parts = path.split("/")
        if parts[0] == "logits":
            theirs = "predictions"
        elif parts[0] == "stem":
            theirs = f"conv1_{'conv' if parts[1] == 'conv' else 'bn'}"
        else:
            stage, block = (int(part.lstrip("stageblock")) for part in parts[0].split("_"))
            number = 0 if parts[1] == "projection" else int(parts[1][-1])
            theirs = f"stack{stage - 1}_block{block - 1}_{number}_{'conv' if parts[2] == 'conv' else 'bn'}"
        state |= {f"{theirs}/{variable}": value.numpy() for variable, value in unit.variables.items()}
    return state


def test_keras_hub_names() -> None:
    ours = rk.create_model("resnet50", **HUB)
    rk.load_weights(ours, keras_hub_twin("resnet50"))
    assert same_weights(ours, small("resnet50", **HUB))
    other = rk.create_model("resnet50_v1", **HUB)
    refused(other, keras_hub_twin("resnet50"), "resnet50_v1 strides in the first 1x1 of a block")


def test_own_model_and_features() -> None:
    model = small()
    features = rk.create_model("cifar_resnet20", include_top=False, pooling="avg")
    rk.load_weights(features, model)
    x = RNG.normal(size=(2, 32, 32, 3)).astype("float32")
    logits = model.get_layer("logits")
    np.testing.assert_allclose(logits(features(x)), model(x), atol=1e-4)


def test_features_are_of_no_classes() -> None:
    """The head that someone puts on them has its own, perhaps just as many."""
    card = rk.model_card(rk.build_cifar_resnet(20, include_top=False, weights="cifar10-jpeg"))
    whole = rk.model_card(rk.load_model("cifar10-jpeg"))
    assert (card.mean, card.std, card.source) == (whole.mean, whole.std, whole.source)
    assert (card.labels, card.metrics) == ((), {})


def refused(model: keras.Model, source: Any, message: str, **options: Any) -> None:
    before = model.get_weights()
    with pytest.raises(UsageError, match=message) as error:
        rk.load_weights(model, source, **options)
    assert "\n" not in str(error.value)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_another_networks_weights_are_refused_and_named() -> None:
    state = rk.torch_state_dict(small("cifar_resnet32"))
    refused(
        small(),
        state,
        r"the mapping do not fit cifar_resnet20: no place here for layer1.3.conv1.weight, .* and \d+ more; "
        "they look like cifar_resnet32 or cifar_plain32",
    )
    wide = rk.torch_state_dict(rk.build_cifar_resnet(20, widths=(32, 64, 128)))
    refused(small(), wide, r"layer1.0.conv1.weight is \(32, 16, 3, 3\) there and \(16, 16, 3, 3\) here")
    state = rk.torch_state_dict(small())
    del state["layer3.2.bn2.running_var"]
    refused(small(), state, "layer3.2.bn2.running_var missing there")
    nothing = "in no layout that is known .*: it has a.weight ...; tried were resnet-keras; torchvision.*KerasHub"
    refused(small(), {"a.weight": np.zeros((3, 3), "float32")}, nothing)
    refused(small(), {"epoch": 3}, "there are no tensors in the mapping")
    refused(small(), {"conv1.weight": np.zeros((16, 3, 3, 3), "int64")}, "holds int64, which are no weights")
    refused(small(), 3, "a mapping, a model or a file, not int")


SMALL: dict[str, Any] = {"classes": 3, "input_shape": (32, 32, 3), "blocks": (2, 1, 1, 1), "widths": (32, 32, 48, 48)}


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("torch", {"variant": "v1"}, "strides in the first 1x1 of a block.*build variant 'v1.5'"),
        ("torch", {"antialias": True}, "blurs where it strides"),
        ("own", {"variant": "v1"}, "stride_in_1x1 of stage1_block1 is False in resnet50 and True in resnet50_v1"),
        ("own", {"activation": "silu"}, "activation of stem is relu in resnet50 and silu in resnet50"),
        ("own", {"shortcut": "none"}, "no place here for stage1_block1/projection"),
    ],
)
def test_weights_of_another_signature_are_refused(source: str, options: dict, message: str) -> None:
    start = rk.build_resnet(50, **SMALL)
    refused(
        rk.build_resnet(50, **options, **SMALL), rk.torch_state_dict(start) if source == "torch" else start, message
    )


def test_what_differs_in_training_alone_is_not_refused() -> None:
    start = rk.build_cifar_resnet(20)
    randomise(start)
    free: dict[str, Any] = {"stochastic_depth": 0.2, "dropout": 0.1, "zero_init_gamma": True, "output_stride": 2}
    other = rk.build_cifar_resnet(20, norm="sync_batch", **free)
    rk.load_weights(other, start)
    assert same_weights(start, other)
    plain = rk.build_cifar_resnet(20, shortcut="none")
    refused(plain, start, "shortcut of stage1_block1 is A in cifar_resnet20 and none in cifar_plain20")


@pytest.mark.parametrize("options", [{"variant": "v1"}, {"antialias": True}, {"variant": "v2_slim"}])
def test_what_pytorch_would_compute_otherwise_is_not_saved_for_it(options: dict, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the answers be wrong"):
        rk.save_weights(rk.build_resnet(50, **options, **SMALL), tmp_path / "a.npz")
    assert list(tmp_path.iterdir()) == []


def test_vgg_without_a_head_leaves_the_dense_layers_out() -> None:
    narrow: dict[str, Any] = {"widths": (4, 4, 8, 8, 8), "hidden": 16}
    whole = rk.build_vgg(11, classes=3, **narrow)
    randomise(whole)
    features = [rk.build_vgg(11, include_top=False, **narrow) for _ in range(2)]
    rk.load_weights(features[0], whole)
    rk.load_weights(features[1], rk.torch_state_dict(whole))
    assert same_weights(*features)
    np.testing.assert_array_equal(features[0].get_weights()[0], whole.get_weights()[0])


def test_densenet_files_with_torchvisions_older_names() -> None:
    short: dict[str, Any] = {"input_shape": (32, 32, 3), "layers": (3, 1, 2, 1)}
    model = small("densenet121", **short)
    state = rk.torch_state_dict(model)
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): value for key, value in state.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    again = rk.create_model("densenet121", **short)
    rk.load_weights(again, old)
    assert same_weights(model, again)


def test_tensors_that_cannot_be_weights() -> None:
    state = rk.torch_state_dict(small())
    refused(
        small(), {**state, "bn1.running_var": -state["bn1.running_var"]}, "bn1.running_var .* a variance below zero"
    )
    refused(small(), {**state, "module.conv1.weight": state["conv1.weight"]}, "has conv1.weight twice")
    refused(small(), {"conv1.weight": np.zeros((3, 3, 3), complex)}, "holds complex128, which are no weights")
    circle: dict[str, Any] = {}
    circle["model"] = circle
    refused(small(), circle, "the tensors in the mapping cannot be read: maximum recursion depth")
    rk.load_weights(small(), {**state, "loss_history": [1.0, 2.0], "epoch": 3, "name": "resnet"})
    with pytest.raises(UsageError, match="str is not one of our networks"):
        rk.load_weights("resnet50", state)  # type: ignore[arg-type]


def test_a_card_does_not_outlive_its_weights() -> None:
    card = rk.ModelCard(
        mean=(0.1,) * 3, std=(0.9,) * 3, source="somewhere", license="mit", claims={"top1_accuracy": 0.9}
    )
    model = rk.build_cifar_resnet(20, include_preprocessing=card)
    rk.load_weights(model, rk.torch_state_dict(small()))
    left = rk.model_card(model)
    assert (left.source, left.license, left.claims, left.mean) == ("", "", {}, card.mean)


def test_a_network_inside_another_model_keeps_its_card() -> None:
    base = rk.build_cifar_resnet(20, include_top=False, pooling="avg", include_preprocessing=True)
    nested = keras.Sequential([base, keras.layers.Dense(3)])
    pixels = RNG.integers(0, 256, (1, 32, 32, 3)).astype("float32")
    np.testing.assert_array_equal(rk.preprocess_input(pixels, nested), pixels)
    foreign = keras.applications.MobileNetV2(weights=None)
    with pytest.raises(UsageError, match="does not say how its images are normalised"):
        rk.preprocess_input(pixels, foreign)


def test_a_head_of_other_classes_is_left_out_only_when_asked(tmp_path: Path) -> None:
    state = rk.torch_state_dict(small())
    model = small(classes=3)
    message = r"the head of .* does not fit .*linear.weight is \(10, 64\) there and \(3, 64\) here.*skip_head=True"
    refused(model, state, message)
    head = model.get_layer("logits").get_weights()
    rk.load_weights(model, state, skip_head=True)
    assert all(np.array_equal(a, b) for a, b in zip(head, model.get_layer("logits").get_weights(), strict=True))
    np.testing.assert_array_equal(model.get_layer("stem").get_weights()[0], small().get_layer("stem").get_weights()[0])

    without_head = {key: value for key, value in state.items() if "linear" not in key}
    refused(small(), without_head, "linear.weight is not there; load all but the head with skip_head=True")

    path = tmp_path / "own.weights.h5"
    small().save_weights(path)
    refused(model, path, "does not fit")
    other = small(classes=3)
    other.get_layer("stem").set_weights([w * 0 for w in other.get_layer("stem").get_weights()])
    rk.load_weights(other, path, skip_head=True)
    np.testing.assert_array_equal(other.get_layer("stem").get_weights()[0], small().get_layer("stem").get_weights()[0])
    refused(small("cifar_resnet32", classes=3), path, "does not fit cifar_resnet32", skip_head=True)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".h5", ".keras", ".weights.h5"])
def test_damaged_and_missing_files(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    refused(small(), path, "there is no file of weights")
    path.write_bytes(b"nothing of the kind")
    refused(small(), path, "damaged|does not fit")
    path.write_bytes(b"")
    refused(small(), path, "damaged|does not fit")


def test_files_that_are_something_else(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"onnx")
    refused(
        small(), tmp_path / "a.onnx", "cannot read weights from .*a.onnx; give a file ending in .keras, .safetensors"
    )
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["layers/conv2d/vars/0"] = np.zeros(3)
    refused(small(), tmp_path / "a.h5", "does not name its layers")
    refused(keras.applications.MobileNetV2(weights=None), {}, "is not one of our networks")
    with pytest.raises(UsageError, match=r"cannot save weights as a.onnx; end the name in .safetensors"):
        rk.save_weights(small(), tmp_path / "a.onnx")
    with pytest.raises(UsageError, match="cannot write .*none/a.npz"):
        rk.save_weights(small(), tmp_path / "none" / "a.npz")


class Malice:
    """Unpickled, it would make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return (Path.mkdir, (self.folder,))


def test_a_malicious_npz_is_refused_and_not_run(tmp_path: Path) -> None:
    path, proof = tmp_path / "a.npz", tmp_path / "ran"
    with path.open("wb") as file:
        np.savez(file, allow_pickle=True, **{"conv1.weight": np.array([Malice(proof)], dtype=object)})
    refused(small(), path, "damaged, or not a .npz file of weights: Object arrays cannot be loaded")
    assert not proof.exists()
    np.load(path, allow_pickle=True)["conv1.weight"]
    assert proof.exists()  # the trap would have sprung


def test_a_bare_pickle_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch is absent too: then the file is not even opened."""
    path, proof = tmp_path / "a.pth", tmp_path / "ran"
    path.write_bytes(pickle.dumps({"conv1.weight": Malice(proof)}))
    monkeypatch.setitem(sys.modules, "torch", None)
    refused(small(), path, "install torch to read .*a.pth; or convert it to .safetensors")
    assert not proof.exists()


def test_a_keras_file_with_code_is_refused(tmp_path: Path) -> None:
    inputs = keras.Input((8, 8, 3))
    keras.Model(inputs, keras.layers.Lambda(lambda x: x * 2)(inputs)).save(tmp_path / "a.keras")
    refused(small(), tmp_path / "a.keras", "cannot be loaded")


# --- what comes with the package ---


def test_packaged_weights_answer_as_their_file_does_and_say_what_they_are() -> None:
    whole = keras.saving.load_model(PACKAGED["cifar10-jpeg"])
    raw = rk.build_cifar_resnet(20, weights="cifar10-jpeg", include_preprocessing=True)
    bare = rk.create_model("cifar_resnet20", weights="cifar10-jpeg")
    pixels = RNG.integers(0, 256, (4, 32, 32, 3)).astype("float32")
    np.testing.assert_array_equal(raw(pixels), whole(pixels))
    np.testing.assert_array_equal(bare(rk.preprocess_input(pixels, bare)), whole(pixels))
    card = rk.model_card(bare)
    assert card == rk.model_card(raw) == rk.model_card(rk.load_model("cifar10-jpeg"))
    assert card.labels[:3] == ("airplane", "automobile", "bird")
    assert (len(card.labels), len(card.mean), len(card.std), card.input_size) == (10, 3, 3, (32, 32))
    assert (card.network, card.data) == ("cifar_resnet20", "cifar10")
    assert "CIFAR-10 whose pictures went through JPEG" in card.source  # the words in the file of 0.1
    assert card.metrics["examples"] == 10_000
    assert f"{card.metrics['accuracy']:.2%}".replace("%", " %") in OFFER


def test_packaged_files_are_small_and_name_no_folder_of_who_trained_them() -> None:
    for file in PACKAGED.values():
        assert file.stat().st_size < 1_500_000
        with zipfile.ZipFile(file) as archive:
            assert "/" not in archive.read("config.json").decode()


def test_packaged_weights_and_other_networks() -> None:
    for build, message in (
        (rk.build_cifar_resnet, "weights of cifar10-jpeg do not fit cifar_resnet32: .* they look like cifar_resnet20$"),
        (rk.build_resnet, "weights of cifar10-jpeg do not fit resnet34: .*"),
    ):
        with pytest.raises(UsageError, match=message) as error:
            build(32 if build is rk.build_cifar_resnet else 34, weights="cifar10-jpeg")
        assert "\n" not in str(error.value)
    refused(rk.build_cifar_resnet(20, classes=3), "cifar10-jpeg", "the head of cifar10-jpeg does not fit")
    refused(small(), "cifar10-jpg", "no file of weights or run folder at cifar10-jpg; packaged ones are cifar10-jpeg")


def test_a_path_of_a_packaged_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar10-jpeg").mkdir()
    own = small()
    own.save(tmp_path / "cifar10-jpeg" / "model.keras")
    assert same_weights(rk.build_cifar_resnet(20, weights="cifar10-jpeg"), own)
    assert same_weights(rk.load_model("cifar10-jpeg"), own)


# --- the Hub ---


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Hub's client, offline, with an empty cache."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def cached(cache: Path, name: str, files: dict[str, bytes]) -> Path:
    """Write a repository into a cache as the Hub's client lays it out: blobs by their hashes, links to them."""
    folder = cache / f"models--{name.replace('/', '--')}"
    commit = "0123456789012345678901234567890123456789"
    snapshot = folder / "snapshots" / commit
    (folder / "refs").mkdir(parents=True)
    (folder / "blobs").mkdir()
    snapshot.mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    for file, content in files.items():
        blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (snapshot / file).symlink_to(blob)
    return snapshot


def safetensors_bytes(state: dict[str, np.ndarray]) -> bytes:
    return pytest.importorskip("safetensors.numpy").save(state)


TIMM_USE = {
    "tag": "a1_in1k",
    "input_size": [3, 288, 288],
    "interpolation": "bicubic",
    "crop_pct": 0.95,
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.21, 0.22],
    "license": "apache-2.0",
}
TIMM_CONFIG = {"architecture": "resnet18", "num_classes": 1000, "pretrained_cfg": TIMM_USE}


def test_imagenet_weights_come_out_of_the_cache_with_their_use(hub_cache: Path, tmp_path: Path) -> None:
    source = rk.build_resnet(18)
    randomise(source)
    state = rk.torch_state_dict(source)
    cached(
        hub_cache,
        "timm/resnet18.a1_in1k",
        {"config.json": json.dumps(TIMM_CONFIG).encode(), "model.safetensors": safetensors_bytes(state)},
    )
    model = rk.build_resnet(18, weights="imagenet", include_preprocessing=True)
    assert same_weights(model, source)
    card = rk.model_card(model)
    assert (card.mean, card.std) == ((0.5, 0.4, 0.3), (0.2, 0.21, 0.22))
    assert (card.crop, card.interpolation, card.input_size) == (0.95, "bicubic", (288, 288))
    assert (card.label_ids[0], card.labels[0], len(card.labels)) == ("n01440764", "tench", 1000)
    assert (card.license, card.source) == ("apache-2.0", "https://huggingface.co/timm/resnet18.a1_in1k")

    pixels = RNG.integers(0, 256, (1, 224, 224, 3)).astype("float32")
    normalised = (pixels / 255 - np.array(card.mean)) / np.array(card.std)
    np.testing.assert_allclose(model(pixels), source(normalised.astype("float32")), atol=1e-3)
    bare = rk.create_model("resnet18", weights="timm/resnet18.a1_in1k")
    np.testing.assert_allclose(rk.preprocess_input(pixels, bare), normalised, rtol=1e-5, atol=1e-5)
    [top] = rk.decode_predictions(bare(rk.preprocess_input(pixels, bare)), bare, top=3)
    best = int(np.argmax(bare(normalised.astype("float32"))[0]))
    assert top[0][:2] == (card.label_ids[best], card.labels[best])
    assert [score for *_, score in top] == sorted((score for *_, score in top), reverse=True)

    bare.save(tmp_path / "a.keras")
    again = keras.models.load_model(tmp_path / "a.keras")
    assert rk.model_card(again) == card
    features = rk.build_resnet(18, weights="imagenet", include_top=False)
    assert rk.model_card(features).mean == card.mean
    own = rk.ModelCard(mean=(0.1,) * 3, std=(0.9,) * 3)
    assert rk.model_card(rk.build_resnet(18, weights="imagenet", include_preprocessing=own)).mean == own.mean


def test_transformers_repository(hub_cache: Path) -> None:
    source = rk.create_model("resnet18", classes=3)
    randomise(source)
    state: dict[str, np.ndarray] = {}
    for key, value in rk.torch_state_dict(source).items():
        unit, _, tensor = key.rpartition(".")
        first = {"conv1": "embedder.embedder.convolution", "bn1": "embedder.embedder.normalization"}
        if unit in first:
            name = first[unit]
        elif unit == "fc":
            state[f"classifier.1.{tensor}"] = value
            continue
        else:
            layer, block, part, *rest = unit.split(".")
            kind = "convolution" if part.startswith("conv") or rest == ["0"] else "normalization"
            where = "shortcut" if part == "downsample" else f"layer.{int(part[-1]) - 1}"
            name = f"encoder.stages.{int(layer[-1]) - 1}.layers.{block}.{where}.{kind}"
        state[f"resnet.{name}.{tensor}"] = value
    config = {"model_type": "resnet", "id2label": {"0": "ant", "2": "cat", "1": "bee"}}
    processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5] * 3, "crop_pct": 0.8, "resample": 2}
    files = {"config.json": config, "preprocessor_config.json": {**processor, "size": {"shortest_edge": 192}}}
    encoded = {name: json.dumps(value).encode() for name, value in files.items()}
    cached(hub_cache, "someone/resnet-18", {**encoded, "model.safetensors": safetensors_bytes(state)})
    model = rk.create_model("resnet18", classes=3, weights="someone/resnet-18")
    assert same_weights(model, source)
    card = rk.model_card(model)
    assert (card.labels, card.mean, card.crop) == (("ant", "bee", "cat"), (0.1, 0.2, 0.3), 0.8)
    assert (card.input_size, card.interpolation, card.data) == ((192, 192), "bilinear", "")


TINY_VIT: dict[str, Any] = {"blocks": 1, "width": 12, "heads": 3, "patch_size": 4, "image_size": 16, "classes": 3}


def test_a_vit_of_transformers_on_the_hub(hub_cache: Path) -> None:
    """Its processor resizes and never crops, which the card says."""
    layout = next(layout for layout in LAYOUTS if layout.title == "transformers' ViT")
    model, source = (rk.build_vit("ti16", **TINY_VIT, input_shape=(16, 16, 3)) for _ in range(2))
    randomise(source)
    state = {f"vit.{name}": value for name, value in in_their_names(source, layout, 0).items()}
    state = {name.replace("vit.classifier", "classifier"): value for name, value in state.items()}
    config = {"model_type": "vit", "id2label": {"0": "ant", "1": "bee", "2": "cat"}}
    processor: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 16, "width": 16}}
    files = {
        "config.json": config,
        "preprocessor_config.json": {**processor, "image_processor_type": "ViTImageProcessor"},
    }
    encoded = {name: json.dumps(value).encode() for name, value in files.items()}
    cached(hub_cache, "someone/vit", {**encoded, "model.safetensors": safetensors_bytes(state)})
    rk.load_weights(model, "someone/vit")
    for ours, theirs in zip(model.weights, source.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    card = rk.model_card(model)
    assert (card.labels, card.mean, card.crop, card.input_size) == (("ant", "bee", "cat"), (0.5,) * 3, 1.0, (16, 16))


def test_offline_says_so_at_once(hub_cache: Path) -> None:
    with pytest.raises(
        UsageError, match=r"cannot fetch timm/resnet50.a1_in1k: .*config.json is not in the cache .*hub"
    ):
        rk.build_resnet(50, weights="imagenet")


@pytest.mark.parametrize(
    "config",
    [
        [],
        {"pretrained_cfg": {}},
        {"pretrained_cfg": None},
        {"id2label": {"a": "b"}},
        {**TIMM_CONFIG, "pretrained_cfg": {**TIMM_USE, "mean": 0.5}},
    ],
    ids=str,
)
def test_a_strange_configuration_is_refused(config: Any, hub_cache: Path) -> None:
    content = safetensors_bytes({"conv1.weight": np.zeros((1,), "float32")})
    files = {"config.json": json.dumps(config).encode(), "model.safetensors": content}
    cached(hub_cache, "timm/a", {**files, "preprocessor_config.json": b"{}"})
    with pytest.raises(UsageError, match="config.json of timm/a does not say how its weights are used: ") as error:
        rk.build_resnet(18, weights="timm/a")
    assert "\n" not in str(error.value)


def test_no_network_says_so_at_once(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub, constants = (pytest.importorskip(name) for name in ("huggingface_hub", "huggingface_hub.constants"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "https://127.0.0.1:9")
    monkeypatch.setattr("resnet_keras.models.downloads.getproxies", dict)
    monkeypatch.setattr(hub, "hf_hub_download", lambda *_, **__: pytest.fail("the client would try for half a minute"))
    with pytest.raises(UsageError, match=r"no network to 127.0.0.1 \(Connection refused\)"):
        rk.build_resnet(50, weights="timm/resnet50.a1_in1k")


def test_a_damaged_download_is_told_by_its_hash(hub_cache: Path) -> None:
    content = safetensors_bytes(rk.torch_state_dict(rk.build_resnet(18)))
    files = {"config.json": json.dumps(TIMM_CONFIG).encode(), "model.safetensors": content}
    snapshot = cached(hub_cache, "timm/resnet18.a1_in1k", files)
    blob = (snapshot / "model.safetensors").resolve()
    blob.write_bytes(content[:-8] + b"\0" * 8)
    with pytest.raises(UsageError, match="is damaged: it is not what its name says; remove it"):
        rk.build_resnet(18, weights="imagenet")


def test_where_the_published_weights_are() -> None:
    assert hub_name(imagenet_spec(50), "resnet50") == "timm/resnet50.a1_in1k"
    dense = imagenet_spec(50, output_stride=8, stochastic_depth=0.1, norm="sync_batch")
    assert hub_name(dense, "resnet50") == "timm/resnet50.a1_in1k"
    for build in (
        lambda: rk.create_model("plain18", weights="imagenet"),
        lambda: rk.build_resnet(18, antialias=True, weights="imagenet"),
        lambda: rk.build_resnet(18, activation="silu", weights="imagenet"),
        lambda: rk.load_weights(rk.build_resnet(18, antialias=True), "imagenet"),
    ):
        with pytest.raises(UsageError, match=r"no 'imagenet' weights for \w+ as it is built; .* resnet18|none of the"):
            build()


def test_decode_and_preprocess_refuse_other_shapes() -> None:
    model = small(classes=3)
    with pytest.raises(UsageError, match=r"scores are \[N, 3\] for cifar_resnet20, not \[2, 4\]"):
        rk.decode_predictions(np.zeros((2, 4)), model)
    assert rk.decode_predictions(np.array([[0.1, 0.7, 0.2]]), model, top=2) == [[("1", "1", 0.7), ("2", "2", 0.2)]]
    grey = rk.create_model("cifar_resnet20", input_shape=(32, 32, 1))
    with pytest.raises(UsageError, match="the images have 1 channels, and the card of cifar_resnet20 has 3 means"):
        rk.preprocess_input(np.zeros((1, 32, 32, 1)), grey)
    raw = rk.create_model("cifar_resnet20", include_preprocessing=True)
    pixels = tf.constant(RNG.integers(0, 256, (1, 32, 32, 3)), tf.uint8)
    np.testing.assert_array_equal(rk.preprocess_input(pixels, raw), tf.cast(pixels, tf.float32))


@pytest.mark.parametrize(("channels", "order"), [(1, "RGB"), (4, "RGB"), (2, "BGR")])
def test_weights_of_rgb_in_networks_of_other_channels(channels: int, order: Any) -> None:
    small: dict[str, Any] = {"widths": (8, 8, 16, 16), "stem_width": 8, "classes": 5}
    card = rk.ModelCard(mean=(0.1, 0.2, 0.3), std=(0.2, 0.4, 0.6), channels=order)
    colour = rk.build_resnet(18, input_shape=(32, 32, 3), include_preprocessing=card, **small)
    randomise(colour)
    other = rk.build_resnet(18, input_shape=(32, 32, channels), **small)
    rk.load_weights(other, colour)
    kernel = np.asarray(colour.get_layer("stem").layers[1].kernel)[:, :, :: 1 if order == "RGB" else -1]
    ours = np.asarray(other.get_layer("stem").layers[1].kernel)
    known = rk.model_card(other)
    if channels == 1:  # a grey image gives what it gives as RGB
        grey = np.random.default_rng(0).normal(size=(2, 32, 32, 1)).astype("float32")
        plain = rk.build_resnet(18, input_shape=(32, 32, 3), **small)
        rk.load_weights(plain, colour)
        np.testing.assert_allclose(other(grey), plain(np.repeat(grey, 3, axis=-1)), rtol=1e-4, atol=1e-6)
        assert (known.mean, known.std) == (pytest.approx((0.2,)), pytest.approx((0.4,)))
    else:
        for i in range(channels):
            np.testing.assert_allclose(ours[:, :, i], kernel[:, :, i % 3] * 3 / channels, rtol=1e-6)
        assert known.mean == tuple((0.1, 0.2, 0.3)[i % 3] for i in range(channels))
        assert known.std == tuple((0.2, 0.4, 0.6)[i % 3] for i in range(channels))
    assert known.channels == "RGB"
