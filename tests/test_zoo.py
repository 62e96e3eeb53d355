import json
from pathlib import Path

import keras
import pytest

import resnet_keras as rk
from resnet_keras.errors import UsageError
from resnet_keras.specs import NAMES
from resnet_keras.zoo import TABLE, complexity, create_model, measure_all, model_table

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())
LARGE = {"cifar_resnet1202", "cifar_preact_resnet1001"}


@pytest.mark.parametrize("name", GOLDEN["networks"])
def test_published_counts(name: str) -> None:
    facts = GOLDEN["networks"][name]
    cost = complexity(create_model(name))
    assert cost.trainable_parameters == facts["trainable_parameters"]
    if "parameters" in facts:
        assert cost.parameters == facts["parameters"]
    if "gmacs" in facts:
        assert round(cost.macs / 1e9, 3) == facts["gmacs"]


@pytest.mark.parametrize("fact", GOLDEN["options"], ids=lambda fact: str(fact["build"]))
def test_published_counts_of_options(fact: dict) -> None:
    model = rk.build_resnet(**fact["build"])
    assert complexity(model).trainable_parameters == fact["trainable_parameters"]


@pytest.mark.parametrize("name", GOLDEN["with_keras_applications_biases"])
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
    assert list(json.loads(TABLE.read_text())) == list(NAMES)
    row = model_table(["resnet50"])[0]
    assert row["trainable_parameters"] == 25_557_032
    assert row["source"] == "He et al. 2015"


@pytest.mark.slow
def test_table_is_what_the_networks_measure() -> None:
    assert json.loads(TABLE.read_text()) == measure_all()


def test_create_model_takes_the_builders_arguments() -> None:
    model = create_model("cifar_resnet20", classes=3, input_shape=(16, 16, 1), shortcut="B")
    assert model.name == "cifar_resnet20"
    assert model.output_shape == (None, 3)


def test_readme_table_is_the_table() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    rows = [
        f"| `{row['name']}` | {row['trainable_parameters']:,} | {row['macs'] / 1e9:.3f} | {row['input_size']} | "
        f"{row['source']} |"
        for row in model_table(list(NAMES))
    ]
    assert "\n".join(rows) in readme
