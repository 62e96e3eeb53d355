"""The residual block: `y = activation(shortcut(x) + branch(x))`.

Pre-activation (He et al. 2016) moves norm and activation from the end of the block to the front of the branch:
`y = shortcut(x) + branch(activation(norm(x)))`. A plain block has no shortcut: `y = activation(branch(x))`.

A kind of block is its list of convolutions. Whether the shortcut is the identity follows from the shapes.

DenseNet's layer, `y = concatenate(x, branch(x))`, and transition stand beside it.
"""

from typing import Any, NamedTuple

import keras
from keras import ops

from resnet_keras.errors import UsageError
from resnet_keras.models.layers import (
    Chain,
    ConvNorm,
    NormActivation,
    Recomputable,
    SqueezeExcitation,
    ZeroPaddedShortcut,
    build_in_turn,
    dropped_branch,
    run,
)
from resnet_keras.models.pooling import BlurPool, Shape
from resnet_keras.models.spec import Norm, ResNetSpec, Shortcut


class ConvSpec(NamedTuple):
    """One convolution of a branch."""

    filters: int
    kernel_size: int
    strides: int = 1
    groups: int = 1


class ResidualBlock(Recomputable):
    """The base of the kinds of block: `[N, H, W, C]` to `[N, ceil(H/strides), ceil(W/strides), filters * expansion]`.

    Args:
        filters: width of the stage; a bottleneck puts out four times as many channels.
        strides: 1, or 2 where a stage begins.
        dilation: of the 3x3 convolutions before the stride.
        stride_as_dilation: keep every pixel, and double the dilation of what follows the stride instead.
        drop_rate: chance that training drops the branch for an image.
        shortcut, preactivation, stride_in_1x1, cardinality, base_width, se_ratio, norm, weight_standardization,
            zero_init_gamma, activation, antialias: as the fields of `ResNetSpec`.
    """

    expansion = 1
    options = (
        "shortcut",
        "preactivation",
        "stride_in_1x1",
        "cardinality",
        "base_width",
        "se_ratio",
        "norm",
        "weight_standardization",
        "zero_init_gamma",
        "activation",
        "antialias",
    )
    own_options = ("filters", "strides", "dilation", "stride_as_dilation", "drop_rate")

    def __init__(
        self,
        filters: int,
        strides: int = 1,
        *,
        dilation: int = 1,
        stride_as_dilation: bool = False,
        drop_rate: float = 0.0,
        shortcut: Shortcut = "B",
        preactivation: bool = False,
        stride_in_1x1: bool = False,
        cardinality: int = 1,
        base_width: int = 64,
        se_ratio: float = 0.0,
        norm: Norm = "batch",
        weight_standardization: bool = False,
        zero_init_gamma: bool = False,
        activation: str = "relu",
        antialias: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters, self.strides = filters, strides
        self.dilation, self.stride_as_dilation, self.drop_rate = dilation, stride_as_dilation, drop_rate
        self.shortcut, self.preactivation, self.stride_in_1x1 = shortcut, preactivation, stride_in_1x1
        self.cardinality, self.base_width, self.se_ratio = cardinality, base_width, se_ratio
        self.norm: Norm = norm
        self.weight_standardization, self.antialias = weight_standardization, antialias
        self.zero_init_gamma, self.activation = zero_init_gamma, activation

    def convolutions(self) -> list[ConvSpec]:
        """The branch's convolutions, first to last."""
        raise NotImplementedError

    def build(self, input_shape: Shape) -> None:
        dtype = self.dtype_policy
        self.front = (
            [NormActivation(self.norm, self.activation, name="preactivation", dtype=dtype)]
            if self.preactivation
            else []
        )
        self.branch: list[keras.layers.Layer] = []
        convolutions, dilation = self.convolutions(), self.dilation
        for i, convolution in enumerate(convolutions, start=1):
            last, strides = i == len(convolutions), convolution.strides
            self.branch.append(
                self.conv_norm(
                    convolution._replace(strides=1 if self.stride_as_dilation else strides),
                    norm=None if last and self.preactivation else self.norm,
                    activation=None if last else self.activation,
                    zero_init=last and self.zero_init_gamma,
                    dilation=dilation if convolution.kernel_size > 1 else 1,
                    antialias=self.antialias and not self.stride_as_dilation,
                    name=f"conv{i}",
                )
            )
            if self.stride_as_dilation:
                dilation *= strides
        if self.se_ratio:
            self.branch.append(SqueezeExcitation(self.se_ratio, name="se", dtype=dtype))
        if self.drop_rate:
            self.branch.append(dropped_branch(self.drop_rate, dtype))
        self.bypass = self.shortcut_layers(input_shape)
        self.end = (
            [] if self.preactivation else [keras.layers.Activation(self.activation, name="activation", dtype=dtype)]
        )
        build_in_turn([*self.front, *self.branch, *self.end], input_shape)
        build_in_turn(self.bypass, input_shape)
        self.restore_trainable()

    def conv_norm(self, convolution: ConvSpec, **options: Any) -> ConvNorm:
        """A convolution of this block, branch or projection."""
        standard = self.weight_standardization
        options = {**convolution._asdict(), **options, "weight_standardization": standard}
        return ConvNorm(**options, dtype=self.dtype_policy)

    def shortcut_layers(self, input_shape: Shape) -> list[keras.layers.Layer]:
        """The shortcut, first to last layer; empty where it is the identity, or where there is none."""
        dtype, channels = self.dtype_policy, self.filters * self.expansion
        changes = self.strides > 1 or input_shape[-1] != channels
        if self.shortcut == "none" or not (changes or self.shortcut == "C"):
            return []
        strides = 1 if self.stride_as_dilation else self.strides
        layers: list[keras.layers.Layer] = []
        if self.shortcut == "D" and self.strides > 1:
            layers.append(keras.layers.AveragePooling2D(2, strides, "same", name="pool", dtype=dtype))
            strides = 1
        elif self.antialias and strides > 1:
            layers.append(BlurPool(strides, name="blur", dtype=dtype))
            strides = 1
        if self.shortcut == "A":
            if channels < int(input_shape[-1] or 0):
                raise UsageError(f"shortcut A only adds channels, not {input_shape[-1]} to {channels}; use shortcut B")
            return [*layers, ZeroPaddedShortcut(channels, strides, name="shortcut", dtype=dtype)]
        # Pre-activation's projection reads the activated input, which needs no further norm.
        norm = None if self.preactivation else self.norm
        return [*layers, self.conv_norm(ConvSpec(channels, 1, strides), norm=norm, name="projection")]

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """Every sublayer, so that `model.summary(expand_nested=True)` opens the block."""
        return [*self.front, *self.branch, *self.bypass, *self.end] if hasattr(self, "end") else []

    def forward(self, x: Any, training: bool | None) -> Any:
        shortcut, branch = self.terms(x, training)
        return run(self.end, branch if shortcut is None else shortcut + branch, training)

    def terms(self, x: Any, training: bool | None) -> tuple[Any, Any]:
        """The two terms of the block's sum, `[N, H, W, C]` each: shortcut (None in a plain net) and branch."""
        activated = run(self.front, x, training)
        branch = run(self.branch, activated, training)
        if self.shortcut == "none":
            return None, branch
        return run(self.bypass, x if self.shortcut == "A" or not self.bypass else activated, training), branch

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, *sides, _ = input_shape
        strides = 1 if self.stride_as_dilation else self.strides
        return (batch, *(side and -(-side // strides) for side in sides), self.filters * self.expansion)

    def get_config(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in (*self.own_options, *self.options)}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("resnet_keras")
class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions (He et al. 2015, Figure 5 left)."""

    def convolutions(self) -> list[ConvSpec]:
        return [ConvSpec(self.filters, 3, self.strides), ConvSpec(self.filters, 3)]


@keras.saving.register_keras_serializable("resnet_keras")
class BottleneckBlock(ResidualBlock):
    """1x1 to narrow, 3x3 (in groups, where there are any), 1x1 to widen (He et al. 2015, Figure 5 right)."""

    expansion = 4

    def convolutions(self) -> list[ConvSpec]:
        width = self.filters * self.base_width // 64 * self.cardinality
        in_1x1, in_3x3 = (self.strides, 1) if self.stride_in_1x1 else (1, self.strides)
        return [
            ConvSpec(width, 1, in_1x1),
            ConvSpec(width, 3, in_3x3, self.cardinality),
            ConvSpec(self.filters * self.expansion, 1),
        ]


KINDS: dict[str, type[ResidualBlock]] = {"basic": BasicBlock, "bottleneck": BottleneckBlock}


def block_from_spec(spec: ResNetSpec, filters: int, strides: int, name: str, **own: Any) -> ResidualBlock:
    """A block of a stage of `filters`, with every option of the spec, and what is `own` to this block."""
    options = {option: getattr(spec, option) for option in ResidualBlock.options}
    if spec.stride_in_last_block and strides > 1:
        options["shortcut"] = "A"  # as many channels as before, so that it only leaves pixels out
    return KINDS[spec.block](filters, strides, **options, **own, name=name)


@keras.saving.register_keras_serializable("resnet_keras")
class DenseLayer(Recomputable, Chain):
    """`y = concatenate(x, branch(x))`: `[N, H, W, C]` to `[N, H, W, C + growth_rate]` (Huang et al. 2017, section 3).

    Args:
        growth_rate, bottleneck, se_ratio, norm, activation, weight_standardization: as the fields of `DenseNetSpec`.
        dropout: after the last convolution.
    """

    options = ("growth_rate", "bottleneck", "se_ratio", "dropout", "norm", "activation", "weight_standardization")

    def __init__(
        self,
        growth_rate: int,
        bottleneck: bool = True,
        se_ratio: float = 0.0,
        dropout: float = 0.0,
        norm: Norm = "batch",
        activation: str = "relu",
        weight_standardization: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.growth_rate, self.bottleneck, self.se_ratio, self.dropout = growth_rate, bottleneck, se_ratio, dropout
        self.norm: Norm = norm
        self.activation, self.weight_standardization = activation, weight_standardization

    def build(self, input_shape: Shape) -> None:
        dtype, width = self.dtype_policy, self.growth_rate
        kept: dict[str, Any] = {"weight_standardization": self.weight_standardization, "dtype": dtype}
        inner = {**kept, "norm": self.norm, "activation": self.activation}
        self.layers = [NormActivation(self.norm, self.activation, name="preactivation", dtype=dtype)]
        if self.bottleneck:
            self.layers.append(ConvNorm(4 * width, 1, **inner, name="conv1"))
        self.layers.append(ConvNorm(width, 3, norm=None, **kept, name="conv2" if self.bottleneck else "conv1"))
        if self.se_ratio:
            self.layers.append(SqueezeExcitation(self.se_ratio, name="se", dtype=dtype))
        if self.dropout:
            self.layers.append(keras.layers.Dropout(self.dropout, name="dropout", dtype=dtype))
        build_in_turn(self.layers, input_shape)
        self.restore_trainable()

    def forward(self, x: Any, training: bool | None) -> Any:
        return ops.concatenate([x, run(self.layers, x, training)], axis=-1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        *image, channels = input_shape
        return (*image, (channels or 0) + self.growth_rate)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **{name: getattr(self, name) for name in self.options}}


@keras.saving.register_keras_serializable("resnet_keras")
class Transition(Chain):
    """Between two stages: norm, activation, 1x1 to `filters`, 2x2 average-pool (Huang et al. 2017, section 3)."""

    def __init__(
        self,
        filters: int,
        norm: Norm = "batch",
        activation: str = "relu",
        weight_standardization: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters, self.activation, self.weight_standardization = filters, activation, weight_standardization
        self.norm: Norm = norm

    def build(self, input_shape: Shape) -> None:
        dtype, standard = self.dtype_policy, self.weight_standardization
        self.layers = [
            NormActivation(self.norm, self.activation, name="preactivation", dtype=dtype),
            ConvNorm(self.filters, 1, norm=None, weight_standardization=standard, name="conv1", dtype=dtype),
            keras.layers.AveragePooling2D(2, name="pool", dtype=dtype),
        ]
        build_in_turn(self.layers, input_shape)
        self.restore_trainable()

    def get_config(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("filters", "norm", "activation", "weight_standardization")}
        return {**super().get_config(), **own}
