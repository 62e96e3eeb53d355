"""The Vision Transformer: a residual stream on patches."""

from dataclasses import dataclass
from typing import Any, ClassVar

import keras

from resnet_keras.errors import UsageError
from resnet_keras.models.builder import ModelOptions, add_head, in_its_dtype, make_input, split_arguments
from resnet_keras.models.layer_norm_specs import ViTSpec, vit_spec
from resnet_keras.models.norm_blocks import EncoderBlock, TokenPatches, drop_rates, layer_norm
from resnet_keras.models.tokens import TokenPooling


@dataclass(frozen=True)
class ViTOptions(ModelOptions):
    """The arguments of a builder, of which `pooling` can be "token" too."""

    POOLINGS: ClassVar[tuple[str, ...]] = ("avg", "max", "token")


def build_vit(size: str, **arguments: Any) -> keras.Model:
    """A Vision Transformer (Dosovitskiy et al. 2020; ti16 and s16: Touvron et al. 2020, Table 1).

    Patches of the image are tokens. Each block is two residual ones, `x + f(norm(x))`: multi-head self-attention, then
    two dense layers. The classifier reads the class token, or the mean of all with `pool="mean"` (Beyer et al. 2022).

    Layers: `stem` (patches, class token, positions), `stage1_block1` ..., `final_norm`, `token_pool`, `logits`,
    `predictions`.

    Args:
        size: "ti16", "s16", "b16", "b32" or "l16": the width, and the pixels of a side of a patch.
        **arguments: the arguments of `build_resnet` that are not of its spec (`classes`, `weights`, ...), and any field
            of `ViTSpec` (`pool`, `image_size`, `layer_scale`, `stochastic_depth`, ...). The position embeddings are of
            `image_size`, 224, whatever `input_shape` is: for images of another size they are interpolated, so that the
            same weights fit. For training at one other size alone, give `image_size` too. Without the top the output
            is all tokens, `[N, T, C]`, or with `pooling` "token", the class token, "avg" or "max" of the others.

    Raises:
        UsageError: (a ValueError) for an unknown size or argument, or too small an input.

    Examples:
        >>> rk.build_vit("ti16", patch_size=4, image_size=32, input_shape=(32, 32, 3), classes=10).output_shape
        (None, 10)
    """
    options, fields = split_arguments(f"vit_{size}", arguments, ViTOptions)
    return _assemble(vit_spec(size, **fields), options)


@in_its_dtype
def _assemble(spec: ViTSpec, options: ModelOptions) -> keras.Model:
    of_head = {"token": "token", "mean": "avg"}
    pooling: Any = of_head[spec.pool] if options.include_top else options.pooling
    has_token = spec.pool == "token"
    if pooling == "token" and not has_token:
        raise UsageError("pooling='token' belongs to pool='token'; with pool='mean' there is no class token")
    inputs, x = make_input(spec, options, spec.image_size)
    side = spec.image_size // spec.patch_size
    x = TokenPatches(spec.width, spec.patch_size, side=side, class_token=has_token, name="stem")(x)
    same = ("norm_placement", "layer_scale", "initialization", "activation", "heads", "expansion")
    block: dict[str, Any] = {name: getattr(spec, name) for name in same}
    rising = drop_rates(spec.stochastic_depth, spec.blocks)
    rates = rising if spec.stochastic_depth_by == "block" else [spec.stochastic_depth] * spec.blocks
    for number, rate in enumerate(rates, start=1):
        x = EncoderBlock(**block, drop_rate=rate, name=f"stage1_block{number}")(x)
    if spec.norm_placement == "pre":
        x = layer_norm("final_norm")(x)
    if pooling:
        x = TokenPooling(pooling, has_token, name=f"{pooling}_pool")(x)
    return add_head(spec, options, inputs, x)
