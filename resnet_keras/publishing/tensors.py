"""A network's weights for safetensors: under timm's names where timm has the same network, else under our own."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from resnet_keras.models.card import ModelCard
from resnet_keras.models.complexity import create_model
from resnet_keras.models.preprocessing import model_card
from resnet_keras.models.registry import NAMES
from resnet_keras.models.signature import signature
from resnet_keras.models.spec import VGG_GRID
from resnet_keras.models.weights.saving import torch_state_dict
from resnet_keras.models.weights.weight_layers import HEAD, WeightLayers, is_ours

TIMM = {
    **{name: row.weights.split("/")[1].split(".")[0] for name, row in NAMES.items() if row.weights},
    # which have no published weights there
    "resnet152_v2": "resnetv2_152",
    "resnet200": "resnet200",
    "seresnet101": "seresnet101",
    "seresnet152": "seresnet152",
}
"""timm's names of the networks that are the same there."""
VGG_LAYERS = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2", "classifier.6": "head.fc"}
"""torchvision's names, and timm's. There the first two are convolutions."""


@dataclass(frozen=True)
class Tensors:
    """What `model.safetensors` and `config.json` have of a network."""

    arrays: dict[str, np.ndarray]
    card: ModelCard
    """Of the arrays, whose order of channels can be another than the model's."""
    signature: dict[str, Any]
    timm: str | None
    """timm's name of the network, where it has the same."""
    why_not: str
    """Why timm cannot load it, where that is so."""
    first: str
    """The layer that reads the image, by its name there."""
    head: str
    features: int
    """Channels of the last feature map."""


def tensors_of(model: keras.Model) -> Tensors | None:
    """The tensors of a network of ours; None for a model that is none, which only a `.keras` file can hold."""
    if not is_ours(model) or any(isinstance(layer, keras.Model) for layer in model.layers):
        return None
    network, card = WeightLayers(model), model_card(model)
    timm, why_not = timm_name(model)
    first = next(iter(network.by_path))
    if timm is None:
        arrays = {
            f"{path}/{name}": np.asarray(variable.numpy(), "float32")
            for path, layer in network.by_path.items()
            for name, variable in layer.variables.items()
        }
        names, heads = [first], [HEAD]
    else:
        arrays = _timm_arrays(model, network)
        names, heads = ([name.rpartition(".")[0] for name in some] for some in (list(arrays)[:1], list(arrays)[-1:]))
        if card.channels == "BGR":  # timm has no other order than RGB
            arrays[f"{names[0]}.weight"] = np.ascontiguousarray(arrays[f"{names[0]}.weight"][:, ::-1])
            card = dataclasses.replace(card, channels="RGB")
    convolutions = [layer.variables["kernel"].shape for layer in network.by_path.values() if _is_convolution(layer)]
    features = convolutions[-1][-1] if "fc1" in network.by_path else network.by_path[HEAD].variables["kernel"].shape[0]
    return Tensors(arrays, card, signature(model), timm, why_not, names[0], heads[0], int(features))


def _is_convolution(layer: Any) -> bool:
    return "kernel" in layer.variables and len(layer.variables["kernel"].shape) == 4


def timm_name(model: keras.Model) -> tuple[str | None, str]:
    """timm's name of a network of ours, or None and why it has none."""
    name = model_card(model).network
    if name not in TIMM:
        return None, f"timm has no {name or model.name}"
    twin = create_model(name, classes=model.output_shape[-1], input_shape=model.input_shape[1:])
    shapes = [[tuple(weight.shape) for weight in one.weights] for one in (model, twin)]
    if signature(model) != signature(twin) or shapes[0] != shapes[1]:
        return None, f"timm has no {name} with these options"
    sides = model.input_shape[1:3]
    if name.startswith("vgg") and any(side is None or side // 32 > VGG_GRID for side in sides):
        return None, f"timm's {TIMM[name]} pools images of more than {32 * VGG_GRID} pixels in another place"
    if name.startswith("vit") and sides != (224, 224):
        return None, f"timm's {TIMM[name]} takes images of 224x224 alone"
    return TIMM[name], ""


def _timm_arrays(model: keras.Model, network: WeightLayers) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name, array in torch_state_dict(model).items():
        layer, _, tensor = name.rpartition(".")
        if "fc1" in network.by_path and layer in VGG_LAYERS:
            layer = VGG_LAYERS[layer]
        if layer == "pre_logits.fc1" and tensor == "weight":
            array = array.reshape(len(array), -1, VGG_GRID, VGG_GRID)
        elif tensor == "weight" and (layer == "pre_logits.fc2" or (layer == "head.fc" and network.preactivation)):
            array = array[:, :, None, None]  # 1x1 convolutions there
        arrays[f"{layer}.{tensor}".removeprefix(".")] = array
    return arrays
