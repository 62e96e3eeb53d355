import json
from dataclasses import asdict
from pathlib import Path

import keras
import pytest

import resnet_keras as rk
from resnet_keras.errors import UsageError
from resnet_keras.models.complexity import PAGE, complexity, create_model, measure_all, models_page
from resnet_keras.models.registry import COMPLEXITY, NAMES, model_table

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())
MEASURED = json.loads(COMPLEXITY.read_text())
UNPUBLISHED = {"resnet200_v2", "plain18", "cifar_seresnet110"}


@pytest.mark.parametrize("name", GOLDEN["networks"])
def test_the_table_has_the_published_counts(name: str) -> None:
    facts, row = GOLDEN["networks"][name], MEASURED[name]
    for key in {"parameters", "trainable_parameters"} & set(facts):
        assert row[key] == facts[key]
    if "millions" in facts:
        assert round(row["trainable_parameters"] / 1e6, 1) == facts["millions"]
    if "kernel_millions" in facts:
        assert round(row["kernel_parameters"] / 1e6, 1) == facts["kernel_millions"]
    if "gmacs" in facts:
        assert round(row["macs"] / 1e9, 3) == facts["gmacs"]


def test_every_name_has_a_published_count() -> None:
    slim = {name for name in NAMES if name.endswith("_v2_slim")}  # tests/test_weights.py counts keras.applications' own
    others = {"densenet264"}  # below
    assert set(GOLDEN["networks"]) | UNPUBLISHED | slim | others == set(NAMES)
    assert (
        MEASURED["plain18"]["trainable_parameters"]
        == complexity(rk.build_resnet(18, shortcut="A")).trainable_parameters
    )
    assert round(MEASURED["densenet264"]["trainable_parameters"] / 1e6) == 33  # Huang et al. 2017, Figure 3


@pytest.mark.parametrize("name", [name for name in GOLDEN["resnetrs_gmacs"] if name in NAMES])
def test_resnet_rs_costs_what_timm_says(name: str) -> None:
    assert MEASURED[name]["macs"] / 1e9 == pytest.approx(GOLDEN["resnetrs_gmacs"][name], rel=0.012)


KINDS = (
    "cifar_plain20",
    "cifar_resnet20",
    "cifar_resnet8_4",  # wide
    "cifar_preact_resnet110",
    "cifar_seresnet110",
    "cifar_resnext29_8x64d",
    "cifar_densenet_bc_100_12",
    "plain18",
    "resnet18",
    "resnet18_cifar",
    "resnet34",
    "resnet50",
    "resnet50_v1",
    "resnet50_v2",
    "resnet50_v2_slim",
    "resnet50d",
    "resnetrs50",
    "seresnext50_32x4d",
    "densenet121",
    "convnext_tiny",
    "vit_ti16",
)
"""A network of each stem, block and shortcut, the smallest that has a name. A VGG takes seconds."""


TOGETHER = ("cifar_seresnet110", "cifar_preact_resnet110", "seresnext50_32x4d", "cifar_densenet_bc_100_12")
"""Those each part of which another has too: 1 to 2 s each."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in TOGETHER else []) for name in KINDS]
)
def test_networks_measure_what_the_table_says(name: str) -> None:
    """All of them, which take minutes, are behind the marker slow, below."""
    model = create_model(name)
    assert model.input_shape[1] == MEASURED[name]["input_size"]
    for key, value in asdict(complexity(model)).items():
        assert value == MEASURED[name][key]


@pytest.mark.parametrize("fact", GOLDEN["options"], ids=lambda fact: str(fact["build"]))
def test_published_counts_of_options(fact: dict) -> None:
    model = rk.build_resnet(**fact["build"])
    assert complexity(model).trainable_parameters == fact["trainable_parameters"]


@pytest.mark.parametrize(("depth", "millions"), [(20, 40.81), (32, 69.12)])
def test_published_macs_of_cifar_nets(depth: int, millions: float) -> None:
    """The README of chenyaofo's pytorch-cifar-models, whose nets have shortcut B, counts convolutions and the head."""
    assert round(complexity(rk.build_cifar_resnet(depth, shortcut="B")).macs / 1e6, 2) == millions


@pytest.mark.parametrize(
    "name",
    # The deeper ones take 3 and 4 seconds; their counts without the biases are published ones, above.
    [
        pytest.param(name, marks=[] if "50" in name else [pytest.mark.slow])
        for name in GOLDEN["with_keras_applications_biases"]
    ],
)
def test_keras_applications_counts_differ_by_its_biases(name: str) -> None:
    model = create_model(name)
    # Each of its convolutions has a bias before the norm, so as many numbers as there are gammas.
    gammas = sum(weight.shape[0] for weight in model.weights if weight.name == "gamma")
    assert model.count_params() + gammas == GOLDEN["with_keras_applications_biases"][name]


def test_complexity_counts_what_can_be_counted_by_hand() -> None:
    layers = keras.layers
    convolution = layers.Conv2D(10, 3, 2, groups=2)
    model = keras.Sequential([layers.Input((8, 6, 4)), convolution, layers.Flatten(), layers.Dense(5)])
    cost = complexity(model)
    assert cost.macs == (3 * 3 * 2 * 10) * (3 * 2) + (3 * 2 * 10) * 5
    assert cost.activations == 3 * 2 * 10
    assert cost.parameters == cost.trainable_parameters == 3 * 3 * 2 * 10 + 10 + 60 * 5 + 5


def test_complexity_needs_a_size() -> None:
    with pytest.raises(UsageError, match="no fixed input size"):
        complexity(rk.build_resnet(18, include_top=False))


def test_table_covers_every_name() -> None:
    assert list(MEASURED) == list(NAMES)
    row = model_table(["resnet50"])[0]
    assert row["trainable_parameters"] == 25_557_032
    assert row["source"] == "He et al. 2015"


@pytest.mark.slow
def test_table_is_what_the_networks_measure() -> None:
    assert measure_all() == MEASURED


def test_create_model_takes_the_builders_arguments() -> None:
    model = create_model("cifar_resnet20", classes=3, input_shape=(16, 16, 1), shortcut="B")
    assert model.name == "cifar_resnet20"
    assert model.output_shape == (None, 3)


def test_models_page_is_the_table() -> None:
    assert PAGE.read_text("utf-8") == models_page()


@pytest.mark.parametrize(("depth", "millions"), [(164, 244.5), (1001, None)])
def test_the_preactivation_nets_cost_what_the_authors_code_does(depth: int, millions: float | None) -> None:
    """Counted by the loops of KaimingHe/resnet-1k-layers, resnet-pre-act.lua, lines 34 to 122."""
    macs, side, channels = 3 * 9 * 16 * 32**2, 32, 16
    for out, stride in ((64, 1), (128, 2), (256, 2)):
        for block in range((depth - 2) // 9):
            side //= stride if block == 0 else 1
            narrow = out // 4
            macs += side**2 * (channels * narrow + 9 * narrow**2 + narrow * out)
            macs += side**2 * channels * out if channels != out else 0
            channels = out
    macs += 256 * 10
    assert macs == MEASURED[f"cifar_preact_resnet{depth}"]["macs"]
    assert millions is None or round(macs / 1e6, 1) == millions
