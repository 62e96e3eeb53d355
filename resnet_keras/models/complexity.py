"""Names to networks, and what a network costs.

`python -m resnet_keras.models.complexity` measures every named network and writes `complexity.json`, the table behind
`resnet-keras models`, and in a checkout `docs/models.md`; a test builds them again and compares.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras

from resnet_keras.errors import UsageError
from resnet_keras.models.convnext import build_convnext
from resnet_keras.models.densenet import build_densenet
from resnet_keras.models.layers import leaves
from resnet_keras.models.registry import COMPLEXITY, NAMES, model_table, named
from resnet_keras.models.resnet import build_cifar_resnet, build_resnet
from resnet_keras.models.tokens import SelfAttention
from resnet_keras.models.vgg import build_vgg
from resnet_keras.models.vit import build_vit
from resnet_keras.models.weights.weight_layers import HEAD

BUILDERS = {
    "resnet": build_resnet,
    "cifar_resnet": build_cifar_resnet,
    "vgg": build_vgg,
    "densenet": build_densenet,
    "convnext": build_convnext,
    "vit": build_vit,
}
PAGE = Path(__file__).parents[2] / "docs" / "models.md"
COUNTED = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)


def create_model(name: str, /, **arguments: Any) -> keras.Model:
    """Build a network by its name, such as "resnext50_32x4d"; `list_models()` lists them.

    Args:
        name: a name of the table in `resnet_keras.models.registry`, given by its place: `name=` is the model's own.
        **arguments: as in the builder of the name's family; they win over the name's own.

    Raises:
        UsageError: (a ValueError) for an unknown name, with the nearest ones.

    Examples:
        >>> model = rk.create_model("cifar_resnet20", classes=3)
        >>> model.name, model.output_shape
        ('cifar_resnet20', (None, 3))
    """
    row = named(name)
    own: dict[str, Any] = {"name": name, "classes": row.classes, **row.arguments}
    if arguments.get("include_top", True) and arguments.get("input_tensor") is None:
        own["input_shape"] = (row.input_size, row.input_size, 3)
    return BUILDERS[row.family](**{**own, **arguments})


@dataclass(frozen=True)
class Complexity:
    """What one image costs a network; `complexity` counts it.

    Examples:
        >>> cost = rk.complexity(rk.build_cifar_resnet(20))
        >>> f"{cost.macs / 1e6:.1f} M multiply-adds"
        '40.6 M multiply-adds'
    """

    parameters: int
    """All of them, batch statistics included."""
    trainable_parameters: int
    """Those that training changes by gradients."""
    macs: int
    """Multiply-accumulates of convolutions, dense layers and our attention, for one image of the model's input size."""
    activations: int
    """Numbers that the convolutions put out (Radosavovic et al. 2020, section 3.1), and dense layers on positions."""


def complexity(model: keras.Model) -> Complexity:
    """Count parameters, multiply-accumulates and activations of a model with a known input size.

    Args:
        model: any Keras model; its convolutions and dense layers count.

    Raises:
        UsageError: (a ValueError) where a side of the input is None, or the model is not built.

    Examples:
        >>> rk.complexity(rk.build_resnet(18)).trainable_parameters  # as torchvision's
        11689512
    """
    if not model.built:
        raise UsageError(f"{model.name} is not built yet; call it on an image, or give it an input")
    macs = activations = 0
    for _, layer in leaves(model):
        if not isinstance(layer, (*COUNTED, SelfAttention)):
            continue
        shape = layer.compute_output_shape(layer.get_build_config()["input_shape"])[1:]
        if None in shape:
            raise UsageError(f"{model.name} has no fixed input size; give input_shape=(height, width, channels)")
        if isinstance(layer, SelfAttention):
            macs += 2 * shape[0] * math.prod(shape)  # queries with keys, and their softmax with values
            continue
        macs += math.prod(layer.kernel.shape) * math.prod(shape[:-1])
        if not isinstance(layer, keras.layers.Dense) or math.prod(shape[:-1]) > 1:  # else it is no 1x1 convolution
            activations += math.prod(shape)
    trainable = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    return Complexity(model.count_params(), trainable, macs, activations)


def learned_parameters(model: keras.Model) -> int:
    """Parameters without BN statistics, whether or not they are frozen just now."""
    return sum(math.prod(weight.shape) for weight in model.weights if not weight.name.startswith("moving_"))


def measure_all() -> dict[str, dict[str, int]]:
    """The complexity of every named network at its own input size."""
    table = {}
    for name in NAMES:
        model = create_model(name)
        kernels = sum(math.prod(w.shape) for w in model.weights if len(w.shape) > 1 and not w.path.startswith(HEAD))
        table[name] = {"input_size": model.input_shape[1], **asdict(complexity(model)), "kernel_parameters": kernels}
        keras.backend.clear_session()
    return table


def models_page() -> str:
    """The text of `docs/models.md`: every named network, its cost, and its source."""
    rows = "".join(
        f"| `{row['name']}` | {row['trainable_parameters']:,} | {row['macs'] / 1e9:.3f} | {row['input_size']} | "
        f"{row['source']} |\n"
        for row in model_table(list(NAMES))
    )
    return f"""# Networks

`rk.create_model(name)` builds these {len(NAMES)} networks; a row has the trainable parameters, the multiply-adds in
units of 10^9 (GMACs) for one image of the input size, and the source.

| name | parameters | GMACs | input | source |
|---|---:|---:|---:|---|
{rows}"""


if __name__ == "__main__":
    lines = (f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in measure_all().items())
    COMPLEXITY.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    if PAGE.is_file():  # an installed package has no docs
        PAGE.write_text(models_page(), "utf-8")
