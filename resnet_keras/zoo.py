"""Names to networks, and what a network costs.

`python -m resnet_keras.zoo` measures every named network and writes `zoo.json`, the table behind `resnet-keras models`;
a test builds them again and compares.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras

from resnet_keras.errors import UsageError
from resnet_keras.resnet import build_cifar_resnet, build_resnet
from resnet_keras.specs import NAMES, named

BUILDERS = {"resnet": build_resnet, "cifar_resnet": build_cifar_resnet}
TABLE = Path(__file__).with_name("zoo.json")


def create_model(name: str, **arguments: Any) -> keras.Model:
    """Build a network by its name, such as "resnext50_32x4d"; `list_models()` lists them.

    Args:
        name: a name of the table in `resnet_keras.specs`.
        **arguments: as in `build_resnet` or `build_cifar_resnet`; they win over the name's own.

    Raises:
        UsageError: (a ValueError) for an unknown name, with the nearest ones.
    """
    row = named(name)
    return BUILDERS[row.family](row.depth, row.variant, **{"name": name, **row.options, **arguments})


@dataclass(frozen=True)
class Complexity:
    """What one picture costs a network."""

    parameters: int
    """All of them, BN statistics included."""
    trainable_parameters: int
    macs: int
    """Multiply-accumulates of convolutions and dense layers, for one picture of the model's input size."""
    activations: int
    """Numbers that the convolutions put out (Radosavovic et al. 2020, section 3.1)."""


def complexity(model: keras.Model) -> Complexity:
    """Count parameters, multiply-accumulates and activations of a model with a known input size.

    Raises `UsageError` where a side of the input is None.
    """
    macs = activations = 0
    for layer in _leaves(model):
        if not isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            continue
        shape = layer.compute_output_shape(layer.get_build_config()["input_shape"])[1:]
        if None in shape:
            raise UsageError(f"{model.name} has no fixed input size; give input_shape=(height, width, channels)")
        macs += math.prod(layer.kernel.shape) * math.prod(shape[:-1])
        if isinstance(layer, keras.layers.Conv2D):
            activations += math.prod(shape)
    trainable = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    return Complexity(model.count_params(), trainable, macs, activations)


def _leaves(layer: Any) -> Iterator[Any]:
    sublayers = getattr(layer, "layers", [])
    for sublayer in sublayers:
        yield from _leaves(sublayer)
    if not sublayers:
        yield layer


def measure_all() -> dict[str, dict[str, int]]:
    """The complexity of every named network at its own input size."""
    table = {}
    for name in NAMES:
        model = create_model(name)
        table[name] = {"input_size": model.input_shape[1], **asdict(complexity(model))}
        keras.backend.clear_session()
    return table


def model_table(names: list[str]) -> list[dict[str, Any]]:
    """Rows of `resnet-keras models`: name, input_size, parameters, macs, ..., source."""
    table = json.loads(TABLE.read_text())
    return [{"name": name, **table[name], "source": NAMES[name].source} for name in names]


if __name__ == "__main__":
    rows = (f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in measure_all().items())
    TABLE.write_text("{\n" + ",\n".join(rows) + "\n}\n")
