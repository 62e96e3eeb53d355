"""The residual block of Transformers: `y = x + gamma * f(norm(x))`, and post-norm, `y = norm(x + gamma * f(x))`.

A kind of block is its `f`. In ConvNeXt's, the norm stands behind the depthwise convolution. The norm is over the
channels of one position, with an epsilon of 1e-6, as in the papers' own code.
"""

from dataclasses import dataclass
from typing import Any, Literal

import keras

from resnet_keras.models.blocks import Residual
from resnet_keras.models.layer_norm_specs import FirstKernels, Placement
from resnet_keras.models.layers import Chain, Recomputable, Specified, build_in_turn, dropped_branch, run
from resnet_keras.models.pooling import Shape
from resnet_keras.models.tokens import SelfAttention, Tokens

LN_EPSILON = 1e-6
Layers = list[keras.layers.Layer]


def layer_norm(name: str, dtype: Any = None) -> keras.layers.Layer:
    """Layer norm over the last axis (Ba et al. 2016)."""
    return keras.layers.LayerNormalization(epsilon=LN_EPSILON, name=name, dtype=dtype)


def small_normal() -> keras.initializers.Initializer:
    """Normal with a deviation of 0.02. ConvNeXt's and ViT's code cuts it at 2, a hundred deviations, so not at all."""
    return keras.initializers.RandomNormal(stddev=0.02)


def dense(units: int, name: str, dtype: Any, initialization: FirstKernels = "normal") -> keras.layers.Layer:
    """A dense layer on the channels of each position, which is a 1x1 convolution."""
    start = small_normal() if initialization == "normal" else keras.initializers.GlorotUniform()
    return keras.layers.Dense(units, kernel_initializer=start, name=name, dtype=dtype)


def drop_rates(last: float, blocks: int) -> list[float]:
    """Of stochastic depth, for each block: along a line from 0 for the first to `last`."""
    return [last * block / max(1, blocks - 1) for block in range(blocks)]


@keras.saving.register_keras_serializable("resnet_keras")
class LayerScale(keras.layers.Layer):
    """A factor `gamma` for each channel, that starts small (Touvron et al. 2021, equation 4).

    Args:
        start: what they all start at.
    """

    def __init__(self, start: float = 1e-6, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.start = start

    def build(self, input_shape: Shape) -> None:
        start = keras.initializers.Constant(self.start)
        self.gamma = self.add_weight(shape=(input_shape[-1],), initializer=start, name="gamma")

    def call(self, x: Any) -> Any:
        return x * self.gamma

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "start": self.start}


@dataclass(frozen=True)
class NormBlockSpec:
    """What the kinds of block have in common; those without a text are as in `ConvNeXtSpec`."""

    norm_placement: Placement = "pre"
    layer_scale: float = 0.0
    initialization: FirstKernels = "normal"
    activation: str = "gelu"
    drop_rate: float = 0.0
    """Chance that training drops the branch for an image."""


class NormResidual(Residual):
    """The base of the kinds of block: an input `[N, ..., C]` to one of the same shape.

    `y = x + gamma * f(norm(x))`, or `y = norm(x + gamma * f(x))` with `norm_placement="post"`. Its arguments are the
    fields of its spec.
    """

    spec_type = NormBlockSpec
    spec: Any

    def function(self, channels: int) -> Layers:
        """The layers of `f`."""
        raise NotImplementedError

    @property
    def pre(self) -> bool:
        """Whether the norm is before the sum."""
        return self.spec.norm_placement == "pre"

    def _front_layers(self) -> Layers:
        return [self._norm()] if self.pre else []

    def _branch_layers(self, input_shape: Shape) -> Layers:
        layers = self.function(int(input_shape[-1] or 0))
        if self.spec.layer_scale:
            layers.append(LayerScale(self.spec.layer_scale, name="scale", dtype=self.dtype_policy))
        if self.spec.drop_rate:
            layers.append(dropped_branch(self.spec.drop_rate, self.dtype_policy, len(input_shape)))
        return layers

    def _end_layers(self) -> Layers:
        return [] if self.pre else [self._norm()]

    def _norm(self) -> keras.layers.Layer:
        return layer_norm("norm", self.dtype_policy)

    def _dense(self, units: int, name: str) -> keras.layers.Layer:
        return dense(units, name, self.dtype_policy, self.spec.initialization)

    def _mlp(self, channels: int, expansion: int) -> Layers:
        """Two dense layers, the first to `expansion` times the channels."""
        return [
            self._dense(channels * expansion, "expand"),
            keras.layers.Activation(self.spec.activation, name="activation", dtype=self.dtype_policy),
            self._dense(channels, "project"),
        ]

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return tuple(input_shape)


@dataclass(frozen=True)
class ConvNeXtBlockSpec(NormBlockSpec):
    """The options of ConvNeXt's block, as in `ConvNeXtSpec`."""

    kernel_size: int = 7
    expansion: int = 4


@keras.saving.register_keras_serializable("resnet_keras")
class ConvNeXtBlock(NormResidual):
    """`f`: depthwise 7x7, norm, 1x1 to four times the channels, GELU, 1x1 (Liu et al. 2022, Figure 4 right).

    `[N, H, W, C]` to the same. Its arguments are the fields of `ConvNeXtBlockSpec`.

    Example:
        >>> ConvNeXtBlock(layer_scale=1e-6)(keras.random.normal((1, 14, 14, 96))).shape
        (1, 14, 14, 96)
    """

    spec_type = ConvNeXtBlockSpec
    spec: ConvNeXtBlockSpec

    def function(self, channels: int) -> Layers:
        size = self.spec.kernel_size
        # Of a filter's own fans, size * size in and out: Keras would count those of all channels.
        glorot = keras.initializers.RandomNormal(stddev=1 / size)
        depthwise = keras.layers.DepthwiseConv2D(
            size,
            padding="same",
            depthwise_initializer=small_normal() if self.spec.initialization == "normal" else glorot,
            name="depthwise",
            dtype=self.dtype_policy,
        )
        return [depthwise, *([self._norm()] if self.pre else []), *self._mlp(channels, self.spec.expansion)]

    def _front_layers(self) -> Layers:
        return []


@dataclass(frozen=True)
class EncoderSpec(NormBlockSpec):
    """The options of a Transformer's blocks, as in `ViTSpec`."""

    heads: int = 12
    expansion: int = 4


@keras.saving.register_keras_serializable("resnet_keras")
class AttentionBlock(NormResidual):
    """`f`: a dense layer to queries, keys and values, self-attention, a dense layer (Dosovitskiy et al. 2020, eq. 2).

    `[N, T, C]` to the same. Its arguments are the fields of `EncoderSpec`.
    """

    spec_type = EncoderSpec
    spec: EncoderSpec

    def function(self, channels: int) -> Layers:
        return [
            self._dense(3 * channels, "qkv"),
            SelfAttention(self.spec.heads, name="attention", dtype=self.dtype_policy),
            self._dense(channels, "project"),
        ]


@keras.saving.register_keras_serializable("resnet_keras")
class MLPBlock(NormResidual):
    """`f`: dense to four times the channels, GELU, dense (Dosovitskiy et al. 2020, equation 3).

    `[N, ..., C]` to the same. Its arguments are the fields of `EncoderSpec`.
    """

    spec_type = EncoderSpec
    spec: EncoderSpec

    def function(self, channels: int) -> Layers:
        return self._mlp(channels, self.spec.expansion)


@keras.saving.register_keras_serializable("resnet_keras")
class EncoderBlock(Specified, Recomputable, Chain):
    """A Transformer's block, which is two residual ones: attention, then MLP. `[N, T, C]` to the same.

    Its arguments are the fields of `EncoderSpec`.

    Example:
        >>> EncoderBlock(heads=6)(keras.random.normal((1, 197, 384))).shape
        (1, 197, 384)
    """

    spec_type = EncoderSpec
    spec: EncoderSpec

    def build(self, input_shape: Shape) -> None:
        dtype = self.dtype_policy
        self.layers = [
            AttentionBlock(spec=self.spec, name="attention", dtype=dtype),
            MLPBlock(spec=self.spec, name="mlp", dtype=dtype),
        ]
        build_in_turn(self.layers, input_shape)
        self.restore_trainable()

    def compute(self, x: Any, training: bool | None) -> Any:
        return run(self.layers, x, training)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return tuple(input_shape)


@dataclass(frozen=True)
class PatchSpec:
    """A convolution whose kernel is as large as its stride, and the norm beside it."""

    filters: int
    """Channels out."""
    patch_size: int
    """Side of the kernel, and stride."""
    norm: Literal["before", "after", "none"] = "none"


@keras.saving.register_keras_serializable("resnet_keras")
class Patches(Specified, Chain):
    """Squares of positions to one: `[N, H, W, C]` to `[N, H/patch_size, W/patch_size, filters]`, rounded down.

    ConvNeXt's stem and what halves its maps (Liu et al. 2022, sections 2.2 and 2.6), and ViT's stem. Its arguments are
    the fields of `PatchSpec`.
    """

    spec_type = PatchSpec
    spec: Any

    def build(self, input_shape: Shape) -> None:
        spec, dtype = self.spec, self.dtype_policy
        convolution = keras.layers.Conv2D(
            spec.filters,
            spec.patch_size,
            spec.patch_size,
            kernel_initializer=small_normal(),
            name="conv",
            dtype=dtype,
        )
        before, after = ([layer_norm("norm", dtype)] if spec.norm == where else [] for where in ("before", "after"))
        self.layers = [*before, convolution, *after, *self._behind()]
        build_in_turn(self.layers, input_shape)
        self.restore_trainable()

    def _behind(self) -> Layers:
        """Further layers."""
        return []


@dataclass(frozen=True)
class TokenPatchSpec(PatchSpec):
    """Patches, and the positions of their tokens."""

    side: int = 14
    """Patches along a side of the square that the position embeddings are of."""
    class_token: bool = True


@keras.saving.register_keras_serializable("resnet_keras")
class TokenPatches(Patches):
    """ViT's stem: `[N, H, W, C]` to tokens, `[N, 1 + H/patch_size * W/patch_size, filters]`; see `Tokens`.

    Its arguments are the fields of `TokenPatchSpec`.
    """

    spec_type = TokenPatchSpec
    spec: TokenPatchSpec

    def _behind(self) -> Layers:
        return [Tokens(self.spec.side, self.spec.class_token, name="tokens", dtype=self.dtype_policy)]
