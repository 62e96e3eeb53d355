"""The layers of a network that hold weights themselves: each convolution, norm and dense layer, by its path.

A path is the names of the layers around it, such as `stage1_block1/conv1/norm`.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras

from resnet_keras.errors import UsageError
from resnet_keras.models.blocks import ResidualBlock
from resnet_keras.models.layers import leaves
from resnet_keras.models.preprocessing import Preprocessing
from resnet_keras.models.spec import VGG_GRID

HEAD = "logits"


@dataclass(frozen=True)
class WeightLayer:
    """A layer that holds weights itself."""

    path: str
    layer: keras.layers.Layer

    @property
    def variables(self) -> dict[str, Any]:
        """By Keras's names: kernel, bias, gamma, beta, moving_mean, ...; class_token and positions of a ViT."""
        return {variable.name: variable for variable in self.layer.weights}

    @property
    def is_depthwise(self) -> bool:
        return isinstance(self.layer, keras.layers.DepthwiseConv2D)

    @property
    def grid(self) -> int:
        """Side of the map that a dense layer reads flattened; 0 for any other layer."""
        return VGG_GRID if self.path == "fc1" else 0


class WeightLayers:
    """The weight layers of a built network of ours, by path, and what the layouts ask of the network.

    Raises `UsageError` for a model that is not one of ours.
    """

    def __init__(self, model: keras.Model) -> None:
        if not isinstance(model, keras.Model) or not is_ours(model):
            called = getattr(model, "name", type(model).__name__)
            raise UsageError(f"{called} is not one of our networks; weights are loaded into and saved from those alone")
        self.model = model
        self.by_path = {path: WeightLayer(path, layer) for path, layer in leaves(model) if layer.weights}

    @cached_property
    def blocks(self) -> list[ResidualBlock]:
        return [layer for layer in self.model.layers if isinstance(layer, ResidualBlock)]

    @property
    def preactivation(self) -> bool:
        return bool(self.blocks) and self.blocks[0].spec.preactivation

    @property
    def bottleneck(self) -> bool:
        return bool(self.blocks) and self.blocks[0].expansion > 1

    @property
    def stride_in_1x1(self) -> bool:
        return self.bottleneck and self.blocks[0].spec.stride_in_1x1

    @property
    def antialias(self) -> bool:
        return any(block.spec.antialias for block in self.blocks)

    @property
    def slim(self) -> bool:
        """Whether the last block of a stage strides, by leaving pixels out of its shortcut."""
        return self.preactivation and any(
            block.strides > 1 and block.spec.shortcut == "A" for block in self.blocks[:-1]
        )

    @property
    def small_stem(self) -> bool:
        """Whether the stem keeps the size, as in the CIFAR nets."""
        return not any(layer.name == "stem_pool" for layer in self.model.layers)


def is_ours(model: keras.Model) -> bool:
    """Whether a builder of ours made a model: it carries a card."""
    return any(isinstance(layer, Preprocessing) for layer in model.layers)
