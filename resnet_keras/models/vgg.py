"""VGG, what there was before the shortcut."""

from typing import Any

import keras

from resnet_keras.models.builder import ModelOptions, add_head, global_pool, in_its_dtype, make_input, split_arguments
from resnet_keras.models.layers import ConvNorm
from resnet_keras.models.pooling import AdaptivePooling
from resnet_keras.models.spec import VGG_GRID, VGGSpec, vgg_spec


def build_vgg(depth: int, batch_norm: bool = False, **arguments: Any) -> keras.Model:
    """A VGG net (Simonyan & Zisserman 2014): the plain net that residual nets grew out of.

    It takes images, float `[N, H, W, C]`, and gives probabilities, float32 `[N, classes]`. Layers: `stage1_conv1` ...,
    `stage1_pool` ..., `fc1`, `fc2`, `logits`, `predictions`. Its convolutions have biases.

    Args:
        depth: 11, 13, 16 or 19.
        batch_norm: batch normalisation behind each convolution, as in torchvision's `vgg16_bn`.
        **arguments: the arguments of `build_resnet` that are not of its spec (`classes`, `weights`, ...), and any field
            of `VGGSpec` (`hidden`, `dropout`, `norm`, `activation`, ...).

    Raises:
        UsageError: (a ValueError) for an unknown depth or argument, or too small an input.

    Examples:
        >>> model = rk.build_vgg(11, batch_norm=True, hidden=64, input_shape=(32, 32, 3), classes=10)
        >>> model.output_shape
        (None, 10)
    """
    options, fields = split_arguments(f"vgg{depth}" + "_bn" * batch_norm, arguments)
    return _assemble(vgg_spec(depth, batch_norm, **fields), options)


@in_its_dtype
def _assemble(spec: VGGSpec, options: ModelOptions) -> keras.Model:
    inputs, x = make_input(spec, options, 224)
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
        x = global_pool(x, options)
    return add_head(spec, options, inputs, x)
