"""A network as a source of features: its pyramid, and which of its layers go on learning."""

import re
from typing import Any

import keras

from resnet_keras.errors import UsageError, unknown
from resnet_keras.models.layers import leaves, sublayers_of
from resnet_keras.models.norm_blocks import TokenPatches
from resnet_keras.models.preprocessing import card_layer
from resnet_keras.models.tokens import TokenMap

NORMS = (keras.layers.BatchNormalization, keras.layers.GroupNormalization, keras.layers.LayerNormalization)


def feature_pyramid(model: keras.Model) -> keras.Model:
    """A network's maps at each scale, for detection and segmentation.

    Args:
        model: a network of ours, with a head or without.

    Returns:
        A model on the same input and weights; its outputs are a dictionary: "stem" (VGG has none), "stage1", "stage2",
        ..., each `[N, H, W, C]`. An ImageNet ResNet's maps are 2, 4, 8, 16 and 32 times smaller than its input,
        ConvNeXt's 4, 4, 8, 16 and 32 times. The
        last stage of a pre-activation net or DenseNet is taken behind its final norm, VGG's stages before their pools.
        A ViT has "stem" and "stage1", its tokens as maps of patches, without the class token.

    Raises:
        UsageError: for a model of others.

    Examples:
        >>> pyramid = rk.feature_pyramid(rk.build_resnet(18, include_top=False))
        >>> maps = pyramid(np.zeros((1, 64, 96, 3), "float32"))
        >>> {name: tuple(value.shape) for name, value in maps.items()}["stage4"]
        (1, 2, 3, 512)
    """
    outputs: dict[str, Any] = {}
    for layer in model.layers:
        if layer.name == "stem":
            outputs["stem"] = layer.output
        elif match := re.fullmatch(r"(stage\d+)_(block|layer|conv)\d+", layer.name):
            # A block in a stage's midst that strides makes the next stage's size already.
            if match[1] not in outputs or getattr(layer, "strides", 1) == 1:
                outputs[match[1]] = layer.output
        elif layer.name == "final_norm":
            outputs[list(outputs)[-1]] = layer.output
    if not outputs:
        raise UsageError(f"{model.name} is not one of our networks: it has no layers stage1_block1 and so on")
    stem = next((layer for layer in model.layers if isinstance(layer, TokenPatches)), None)
    if stem is not None:
        spec, image = stem.spec, model.input
        outputs = {
            name: TokenMap(spec.patch_size, spec.class_token, name=f"{name}_map")([tokens, image])
            for name, tokens in outputs.items()
        }
    return keras.Model(model.input, outputs, name=f"{model.name}_pyramid")


def freeze(model: keras.Model, through: str | None = None) -> list[str]:
    """Keep layers as they are while the rest is fine-tuned: weights fixed, norms in inference mode.

    A batch norm that only has its weights fixed still changes its statistics in Keras's `training=True`; here the
    whole layer is set to `trainable = False`, which for Keras's batch norm means inference mode as well. Call it before
    `compile`, or compile again.

    Args:
        model: a network of ours.
        through: the last part to freeze, such as "stem", "stage3" or "stage3_block2"; None for all but the head.

    Returns:
        The names of the layers with weights that are frozen.

    Raises:
        UsageError: (a ValueError) for a model of others, or a part that the model does not have.

    Examples:
        >>> model = rk.build_cifar_resnet(8)
        >>> rk.freeze(model, "stage1")
        ['stem', 'stage1_block1']
    """
    learning = _layers(model)
    if through is None:
        chosen = [layer for layer in learning if layer.name != "logits"]
    else:
        chosen = learning[: _positions(model, learning, through)[-1] + 1]
    for layer in chosen:
        _set_trainable(layer, False)
    return [layer.name for layer in chosen]


def unfreeze(model: keras.Model, start: str | None = None, *, norms: bool = False) -> list[str]:
    """Let layers learn again; their batch norms stay in inference mode unless `norms`.

    The statistics of a large data set are better than those of a small one's batches, and norms that follow a small
    learning set forget in a few steps what the rest of the network was trained to read.

    Args:
        model: a network of ours.
        start: the first part to unfreeze, such as "stage4"; None for all.
        norms: the norms too.

    Returns:
        The names of the layers that learn now.

    Raises:
        UsageError: (a ValueError) for a model of others, or a part that the model does not have.

    Examples:
        >>> model = rk.build_cifar_resnet(8)
        >>> frozen = rk.freeze(model)
        >>> rk.unfreeze(model, "stage3")
        ['stage3_block1', 'logits']
    """
    learning = _layers(model)
    chosen = learning if start is None else learning[_positions(model, learning, start)[0] :]
    for layer in chosen:
        _set_trainable(layer, True)
    if not norms:
        freeze_norms(model)
    return [layer.name for layer in chosen if layer.trainable_weights]


def freeze_norms(model: keras.Model) -> int:
    """Put every norm into inference mode, its gamma and beta fixed.

    Args:
        model: any model; call it before `compile`, or compile again.

    Returns:
        How many norms there are.

    Examples:
        >>> rk.freeze_norms(rk.build_cifar_resnet(8))
        7
    """
    norms = [layer for _, layer in leaves(model) if isinstance(layer, NORMS)]
    for layer in norms:
        layer.trainable = False
    return len(norms)


def _set_trainable(layer: Any, value: bool) -> None:
    # On TensorFlow, setting a flag to what it is already does nothing, so a block's would not reach a norm below it.
    layer.trainable = value
    for _, sublayer in sublayers_of(layer):
        sublayer.trainable = value


def _layers(model: keras.Model) -> list[Any]:
    """The layers with weights. Raises `UsageError` for a model of others, or one that holds ours inside it."""
    if not card_layer(model) or not any(re.match(r"stage\d+_", layer.name) for layer in model.layers):
        raise UsageError(f"{model.name} is not one of our networks; give the network itself where it holds one")
    return [layer for layer in model.layers if layer.weights]


def _positions(model: keras.Model, layers: list[Any], part: str) -> list[int]:
    found = [i for i, layer in enumerate(layers) if layer.name == part or layer.name.startswith(f"{part}_")]
    if not found:
        raise unknown(f"part of {model.name}", part, [layer.name for layer in layers])
    return found
