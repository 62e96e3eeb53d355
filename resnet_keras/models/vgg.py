"""The neighbours: VGG, what there was before the shortcut, and DenseNet, which concatenates where a ResNet adds."""

from typing import Any

import keras

from resnet_keras.models.blocks import DenseLayer, Transition
from resnet_keras.models.builder import ModelOptions, close, open_input, pooled
from resnet_keras.models.layers import ConvNorm, NormActivation
from resnet_keras.models.pooling import AdaptivePooling, StemMaxPooling
from resnet_keras.models.spec import VGG_GRID, densenet_spec, vgg_spec


def build_vgg(depth: int, batch_norm: bool = False, **arguments: Any) -> keras.Model:
    """A VGG net (Simonyan & Zisserman 2014): the plain net that residual nets grew out of.

    Layers: `stage1_conv1` ..., `stage1_pool` ..., `fc1`, `fc2`, `logits`, `predictions`. Its convolutions have biases.

    Args:
        depth: 11, 13, 16 or 19.
        batch_norm: batch normalisation behind each convolution, as in torchvision's `vgg16_bn`.
        **arguments: the arguments of `build_resnet` that are not of its spec (`classes`, `weights`, ...), and any field
            of `VGGSpec` (`hidden`, `dropout`, `norm`, `activation`, ...).

    Raises:
        UsageError: (a ValueError) for an unknown depth or argument, or too small an input.
    """
    options, fields = _split(f"vgg{depth}" + "_bn" * batch_norm, arguments)
    spec = vgg_spec(depth, batch_norm, **fields)
    inputs, x = open_input(spec, options, 224)
    kept: dict[str, Any] = {"norm": spec.norm, "activation": spec.activation}
    kept["weight_standardization"] = spec.weight_standardization
    for stage, (convolutions, width) in enumerate(zip(spec.convolutions, spec.widths, strict=True), start=1):
        for number in range(1, convolutions + 1):
            x = ConvNorm(width, 3, **kept, use_bias=True, name=f"stage{stage}_conv{number}")(x)
        x = keras.layers.MaxPooling2D(name=f"stage{stage}_pool")(x)
    if options.include_top:
        x = AdaptivePooling(VGG_GRID, name="adaptive_pool")(x)
        x = keras.layers.Flatten(name="flatten")(x)
        for name in ("fc1", "fc2"):
            x = keras.layers.Dense(spec.hidden, spec.activation, kernel_initializer="he_normal", name=name)(x)
            if spec.dropout:
                x = keras.layers.Dropout(spec.dropout, name=f"{name}_dropout")(x)
    else:
        x = pooled(x, options)
    return close(spec, options, inputs, x)


def build_densenet(depth: int, **arguments: Any) -> keras.Model:
    """A DenseNet (Huang et al. 2017): every layer reads the outputs of all earlier ones of its stage.

    Layers: `stem`, `stem_pool`, `stage1_layer1` ..., `transition1` ..., `final_norm`, `avg_pool`, `logits`,
    `predictions`.

    Args:
        depth: 121, 161, 169, 201 or 264; with `stem="cifar"`, 6n+4 (without bottlenecks 3n+4).
        **arguments: the arguments of `build_resnet` that are not of its spec (`classes`, `weights`, ...), and any field
            of `DenseNetSpec` (`growth_rate`, `bottleneck`, `compression`, `se_ratio`, `norm`, ...).

    Raises:
        UsageError: (a ValueError) for an unknown depth or argument, or too small an input.
    """
    options, fields = _split(f"densenet{depth}", arguments)
    spec = densenet_spec(depth, **fields)
    cifar = spec.stem == "cifar"
    inputs, x = open_input(spec, options, 32 if cifar else 224)
    kept: dict[str, Any] = {"norm": spec.norm, "activation": spec.activation}
    kept["weight_standardization"] = spec.weight_standardization
    if cifar:
        x = ConvNorm(spec.stem_width, 3, **{**kept, "norm": None, "activation": None}, name="stem")(x)
    else:
        x = StemMaxPooling(name="stem_pool")(ConvNorm(spec.stem_width, 7, 2, **kept, name="stem")(x))
    layer: dict[str, Any] = {"bottleneck": spec.bottleneck, "se_ratio": spec.se_ratio, "dropout": spec.layer_dropout}
    for stage, layers in enumerate(spec.layers, start=1):
        for number in range(1, layers + 1):
            x = DenseLayer(spec.growth_rate, **layer, **kept, name=f"stage{stage}_layer{number}")(x)
        if stage < len(spec.layers):
            x = Transition(max(1, int(x.shape[-1] * spec.compression)), **kept, name=f"transition{stage}")(x)
    x = NormActivation(spec.norm, spec.activation, name="final_norm")(x)
    return close(spec, options, inputs, pooled(x, options))


def _split(name: str, arguments: dict[str, Any]) -> tuple[ModelOptions, dict[str, Any]]:
    """A builder's arguments, parted into the options that all builders share and the fields of a spec."""
    shared = {key: value for key, value in arguments.items() if key in ModelOptions.__dataclass_fields__}
    fields = {key: value for key, value in arguments.items() if key not in shared}
    return ModelOptions(**{**shared, "name": shared.get("name") or name}), fields
