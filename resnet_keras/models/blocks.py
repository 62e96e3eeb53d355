"""The residual block: `y = activation(shortcut(x) + branch(x))`.

Pre-activation (He et al. 2016) moves norm and activation from the end of the block to the start of the branch:
`y = shortcut(x) + branch(activation(norm(x)))`. A plain block has no shortcut: `y = activation(branch(x))`.

A kind of block is its list of convolutions. Whether the shortcut is the identity follows from the shapes.

DenseNet's layer, `y = concatenate(x, branch(x))`, and transition stand beside it. The blocks of ConvNeXt and ViT,
`y = x + gamma * f(norm(x))`, have the same base and are in `norm_blocks.py`.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from resnet_keras.errors import UsageError
from resnet_keras.models.layers import (
    Chain,
    ConvNorm,
    ConvSpec,
    NormActivation,
    Recomputable,
    Specified,
    SqueezeExcitation,
    ZeroPaddedShortcut,
    build_in_turn,
    dropped_branch,
    run,
)
from resnet_keras.models.norm_names import Norm, rename_norm
from resnet_keras.models.pooling import BlurPool, Shape
from resnet_keras.models.spec import BlockSpec, ResNetSpec


class Residual(Specified, Recomputable):
    """`y = end(bypass(x) + branch(front(x)))`, each a list of layers, of which none is the identity.

    Subclasses say the layers; their constructor takes what says them.
    """

    # `front` (pre-activation), `branch`, `bypass` (shortcut) and `end` (post-activation) are keys of .keras and .h5
    # files, which Keras fills attribute by attribute in alphabetical order: they keep their names and that order.
    front: list[keras.layers.Layer]
    branch: list[keras.layers.Layer]
    bypass: list[keras.layers.Layer]
    end: list[keras.layers.Layer]

    def build(self, input_shape: Shape) -> None:
        self.front = self._front_layers()
        self.branch = self._branch_layers(input_shape)
        self.bypass = self._shortcut_layers(input_shape)
        self.end = self._end_layers()
        build_in_turn([*self.front, *self.branch, *self.end], input_shape)
        build_in_turn(self.bypass, input_shape)
        self.restore_trainable()

    def _front_layers(self) -> list[keras.layers.Layer]:
        return []

    def _branch_layers(self, input_shape: Shape) -> list[keras.layers.Layer]:
        raise NotImplementedError

    def _shortcut_layers(self, input_shape: Shape) -> list[keras.layers.Layer]:
        """Empty where the shortcut is the identity."""
        return []

    def _end_layers(self) -> list[keras.layers.Layer]:
        return []

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """Every sublayer, so that `model.summary(expand_nested=True)` opens the block."""
        return [*self.front, *self.branch, *self.bypass, *self.end] if hasattr(self, "end") else []

    def compute(self, x: Any, training: bool | None) -> Any:
        shortcut, branch = self.terms(x, training)
        y = branch if shortcut is None else shortcut + branch
        return run(self.end, y, training)

    def terms(self, x: Any, training: bool | None) -> tuple[Any, Any]:
        """The two terms of the block's sum: shortcut (None where there is none) and branch."""
        return run(self.bypass, x, training), run(self.branch, run(self.front, x, training), training)


class ResidualBlock(Residual):
    """The base of a ResNet's blocks: `[N, H, W, C]` to `[N, ceil(H/strides), ceil(W/strides), filters * expansion]`.

    Args:
        filters: width of the stage; a bottleneck puts out four times as many channels.
        strides: 1, or 2 where the size is halved.
        spec: what the blocks of a network have in common; or its fields as keywords (`shortcut="A"`).
        dilation: of the 3x3 convolutions before the stride.
        stride_as_dilation: keep every pixel, and double the dilation of what follows the stride instead.
        drop_rate: chance that training drops the branch for an image.
    """

    expansion = 1
    spec_type = BlockSpec
    spec: BlockSpec

    def __init__(
        self,
        filters: int,
        strides: int = 1,
        *,
        spec: BlockSpec | None = None,
        dilation: int = 1,
        stride_as_dilation: bool = False,
        drop_rate: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(spec=spec, **kwargs)
        self.filters, self.strides, self.drop_rate = filters, strides, drop_rate
        self.dilation, self.stride_as_dilation = dilation, stride_as_dilation

    def convolutions(self) -> list[ConvSpec]:
        """The branch's convolutions, first to last: filters, kernel, strides and groups."""
        raise NotImplementedError

    def _front_layers(self) -> list[keras.layers.Layer]:
        if not self.spec.preactivation:
            return []
        norm, activation = self.spec.norm, self.spec.activation
        return [NormActivation(norm, activation, name="preactivation", dtype=self.dtype_policy)]

    def _end_layers(self) -> list[keras.layers.Layer]:
        if self.spec.preactivation:
            return []
        return [keras.layers.Activation(self.spec.activation, name="activation", dtype=self.dtype_policy)]

    def _branch_layers(self, input_shape: Shape) -> list[keras.layers.Layer]:
        spec, convolutions, dilation = self.spec, self.convolutions(), self.dilation
        layers: list[keras.layers.Layer] = []
        for i, convolution in enumerate(convolutions, start=1):
            last = i == len(convolutions)
            layers.append(
                self._conv_norm(
                    convolution,
                    f"conv{i}",
                    strides=1 if self.stride_as_dilation else convolution.strides,
                    norm=None if last and spec.preactivation else spec.norm,
                    activation=None if last else spec.activation,
                    zero_init=last and spec.zero_init_gamma,
                    dilation=dilation if convolution.kernel_size > 1 else 1,
                    antialias=spec.antialias and not self.stride_as_dilation,
                )
            )
            if self.stride_as_dilation:
                dilation *= convolution.strides
        if spec.se_ratio:
            start = "lecun_normal" if spec.initialization == "lecun" else "glorot_uniform"
            layers.append(SqueezeExcitation(spec.se_ratio, start, name="se", dtype=self.dtype_policy))
        if self.drop_rate:
            layers.append(dropped_branch(self.drop_rate, self.dtype_policy))
        return layers

    def _shortcut_layers(self, input_shape: Shape) -> list[keras.layers.Layer]:
        """Empty where the shortcut is the identity, or where there is none."""
        spec, dtype, channels = self.spec, self.dtype_policy, self.filters * self.expansion
        changes = self.strides > 1 or input_shape[-1] != channels
        if spec.shortcut == "none" or not (changes or spec.shortcut == "C"):
            return []
        strides = 1 if self.stride_as_dilation else self.strides
        layers: list[keras.layers.Layer] = []
        if spec.shortcut == "D" and self.strides > 1:
            layers.append(keras.layers.AveragePooling2D(2, strides, "same", name="pool", dtype=dtype))
            strides = 1
        elif spec.antialias and strides > 1:
            layers.append(BlurPool(strides, name="blur", dtype=dtype))
            strides = 1
        if spec.shortcut == "A":
            if channels < int(input_shape[-1] or 0):
                raise UsageError(f"shortcut A only adds channels, not {input_shape[-1]} to {channels}; use shortcut B")
            return [*layers, ZeroPaddedShortcut(channels, strides, name="shortcut", dtype=dtype)]
        # Pre-activation's projection reads the activated input, which needs no further norm.
        norm = None if spec.preactivation else spec.norm
        return [*layers, self._conv_norm(ConvSpec(channels, 1, strides), "projection", norm=norm)]

    def _conv_norm(self, convolution: ConvSpec, name: str, **options: Any) -> ConvNorm:
        """A convolution of this block, in the branch or the shortcut."""
        common = {name: getattr(self.spec, name) for name in ("weight_standardization", "initialization")}
        spec = dataclasses.replace(convolution, **options, **common)
        return ConvNorm(spec=spec, name=name, dtype=self.dtype_policy)

    def terms(self, x: Any, training: bool | None) -> tuple[Any, Any]:
        """The two terms of the block's sum, `[N, H, W, C]` each: shortcut (None in a plain net) and branch."""
        activated = run(self.front, x, training)
        branch = run(self.branch, activated, training)
        if self.spec.shortcut == "none":
            return None, branch
        # An identity, and shortcut A, pass on what came in.
        return run(self.bypass, x if self.spec.shortcut == "A" or not self.bypass else activated, training), branch

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, *sides, _ = input_shape
        strides = 1 if self.stride_as_dilation else self.strides
        return (batch, *(side and -(-side // strides) for side in sides), self.filters * self.expansion)

    def get_config(self) -> dict[str, Any]:
        own = ("filters", "strides", "dilation", "stride_as_dilation", "drop_rate")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


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
        cardinality = self.spec.cardinality
        width = self.filters * self.spec.base_width // 64 * cardinality
        in_1x1, in_3x3 = (self.strides, 1) if self.spec.stride_in_1x1 else (1, self.strides)
        return [
            ConvSpec(width, 1, in_1x1),
            ConvSpec(width, 3, in_3x3, cardinality),
            ConvSpec(self.filters * self.expansion, 1),
        ]


KINDS: dict[str, type[ResidualBlock]] = {"basic": BasicBlock, "bottleneck": BottleneckBlock}


def block_from_spec(spec: ResNetSpec, filters: int, strides: int, name: str, **own: Any) -> ResidualBlock:
    """A block of a stage of `filters`, with every option of the spec, and what is `own` to this block."""
    block_spec = spec.block_spec
    if spec.stride_in_last_block and strides > 1:
        # As many channels as before, so that it only leaves pixels out.
        block_spec = dataclasses.replace(block_spec, shortcut="A")
    return KINDS[spec.block](filters, strides, spec=block_spec, **own, name=name)


@dataclass(frozen=True)
class DenseLayerSpec:
    """The options of a dense layer; those without a text are as in `DenseNetSpec`."""

    growth_rate: int
    bottleneck: bool = True
    se_ratio: float = 0.0
    dropout: float = 0.0
    """After the last convolution."""
    norm: Norm = "batch"
    activation: str = "relu"
    weight_standardization: bool = False

    def __post_init__(self) -> None:
        rename_norm(self)


@keras.saving.register_keras_serializable("resnet_keras")
class DenseLayer(Specified, Recomputable, Chain):
    """`y = concatenate(x, branch(x))`: `[N, H, W, C]` to `[N, H, W, C + growth_rate]` (Huang et al. 2017, section 3).

    Its arguments are the fields of `DenseLayerSpec`.
    """

    spec_type = DenseLayerSpec
    spec: DenseLayerSpec

    def build(self, input_shape: Shape) -> None:
        spec, dtype = self.spec, self.dtype_policy
        kept: dict[str, Any] = {"weight_standardization": spec.weight_standardization, "dtype": dtype}
        inner = {**kept, "norm": spec.norm, "activation": spec.activation}
        self.layers = [NormActivation(spec.norm, spec.activation, name="preactivation", dtype=dtype)]
        if spec.bottleneck:
            self.layers.append(ConvNorm(4 * spec.growth_rate, 1, **inner, name="conv1"))
        last = "conv2" if spec.bottleneck else "conv1"
        self.layers.append(ConvNorm(spec.growth_rate, 3, norm=None, **kept, name=last))
        if spec.se_ratio:
            self.layers.append(SqueezeExcitation(spec.se_ratio, name="se", dtype=dtype))
        if spec.dropout:
            self.layers.append(keras.layers.Dropout(spec.dropout, name="dropout", dtype=dtype))
        build_in_turn(self.layers, input_shape)
        self.restore_trainable()

    def compute(self, x: Any, training: bool | None) -> Any:
        return ops.concatenate([x, run(self.layers, x, training)], axis=-1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        *image, channels = input_shape
        return (*image, (channels or 0) + self.spec.growth_rate)


@dataclass(frozen=True)
class TransitionSpec:
    """The options of a transition, as in `DenseNetSpec`, and its channels out."""

    filters: int
    norm: Norm = "batch"
    activation: str = "relu"
    weight_standardization: bool = False

    def __post_init__(self) -> None:
        rename_norm(self)


@keras.saving.register_keras_serializable("resnet_keras")
class Transition(Specified, Chain):
    """Between two stages: norm, activation, 1x1 convolution, 2x2 average-pool (Huang et al. 2017, section 3).

    `[N, H, W, C]` to `[N, H/2, W/2, filters]`. Its arguments are the fields of `TransitionSpec`.
    """

    spec_type = TransitionSpec
    spec: TransitionSpec

    def build(self, input_shape: Shape) -> None:
        spec, dtype = self.spec, self.dtype_policy
        standard = spec.weight_standardization
        self.layers = [
            NormActivation(spec.norm, spec.activation, name="preactivation", dtype=dtype),
            ConvNorm(spec.filters, 1, norm=None, weight_standardization=standard, name="conv1", dtype=dtype),
            keras.layers.AveragePooling2D(2, name="pool", dtype=dtype),
        ]
        build_in_turn(self.layers, input_shape)
        self.restore_trainable()
