"""ConvNeXt, a ResNet brought up to the Transformer."""

from typing import Any

import keras

from resnet_keras.models.builder import ModelOptions, add_head, global_pool, in_its_dtype, make_input, split_arguments
from resnet_keras.models.layer_norm_specs import ConvNeXtSpec, convnext_spec
from resnet_keras.models.norm_blocks import ConvNeXtBlock, Patches, drop_rates, layer_norm


def build_convnext(size: str, **arguments: Any) -> keras.Model:
    """A ConvNeXt (Liu et al. 2022, "A ConvNet for the 2020s"): blocks `x + gamma * f(x)` of a depthwise 7x7
    convolution, layer norm and two 1x1 convolutions with GELU between, in the four stages of a ResNet.

    Layers: `stem`, `stage1_block1` ..., `stage2_downsample` ..., `avg_pool`, `head_norm`, `logits`, `predictions`.

    Args:
        size: "tiny", "small", "base" or "large".
        **arguments: the arguments of `build_resnet` that are not of its spec (`classes`, `weights`, ...), and any field
            of `ConvNeXtSpec` (`blocks`, `widths`, `patch_size`, `layer_scale`, `stochastic_depth`, ...). Without the
            top, the last stage, pooled or not, is behind the norm `head_norm`, as in keras.applications.

    Raises:
        UsageError: (a ValueError) for an unknown size or argument, or too small an input.

    Examples:
        >>> rk.build_convnext("tiny", classes=10, input_shape=(32, 32, 3), patch_size=1).output_shape
        (None, 10)
    """
    options, fields = split_arguments(f"convnext_{size}", arguments)
    return _assemble(convnext_spec(size, **fields), options)


@in_its_dtype
def _assemble(spec: ConvNeXtSpec, options: ModelOptions) -> keras.Model:
    inputs, x = make_input(spec, options, 224)
    x = Patches(spec.widths[0], spec.patch_size, "after", name="stem")(x)
    same = ("norm_placement", "layer_scale", "initialization", "activation", "kernel_size", "expansion")
    block: dict[str, Any] = {name: getattr(spec, name) for name in same}
    rates = iter(drop_rates(spec.stochastic_depth, sum(spec.blocks)))
    for stage, (blocks, width) in enumerate(zip(spec.blocks, spec.widths, strict=True), start=1):
        if stage > 1:
            x = Patches(width, 2, "before", name=f"stage{stage}_downsample")(x)
        for number in range(1, blocks + 1):
            x = ConvNeXtBlock(**block, drop_rate=next(rates), name=f"stage{stage}_block{number}")(x)
    return add_head(spec, options, inputs, layer_norm("head_norm")(global_pool(x, options)))
