"""The neighbours: VGG, what there was before the shortcut, and DenseNet, which concatenates where a ResNet adds."""

from typing import Any

import keras
from keras import ops

from resnet_keras.assembly import ModelOptions, close, open_input, pooled
from resnet_keras.layers import (
    Chain,
    ConvNorm,
    NormActivation,
    Shape,
    SqueezeExcitation,
    StemMaxPooling,
    build_in_turn,
    run,
)
from resnet_keras.specs import VGG_GRID, Norm, densenet_spec, vgg_spec


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
        x = ConvNorm(spec.stem_width, 3, norm=None, name="stem")(x)
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


@keras.saving.register_keras_serializable("resnet_keras")
class AdaptivePooling(keras.layers.Layer):
    """Average a map of any size over `side` x `side` cells, which overlap where they do not divide it, as torch does.

    Keras's own fails on maps smaller than the grid.
    """

    def __init__(self, side: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.side = side

    def call(self, x: Any) -> Any:
        _, height, width, _ = ops.shape(x)
        rows, columns = self._cells(height, x.dtype), self._cells(width, x.dtype)
        return ops.einsum("ih,nhwc,jw->nijc", rows, x, columns)

    def _cells(self, length: Any, dtype: Any) -> Any:
        """The weight of each pixel along a side in each cell, `[side, length]`."""
        cell, pixel = ops.arange(self.side)[:, None], ops.arange(length)[None, :]
        first, end = cell * length // self.side, ((cell + 1) * length + self.side - 1) // self.side
        inside = ops.cast((pixel >= first) & (pixel < end), dtype)
        return inside / ops.cast(end - first, dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.side, self.side, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "side": self.side}


@keras.saving.register_keras_serializable("resnet_keras")
class DenseLayer(Chain):
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

    def call(self, x: Any, training: bool | None = None) -> Any:
        return ops.concatenate([x, run(self.layers, x, training)], axis=-1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        *picture, channels = input_shape
        return (*picture, (channels or 0) + self.growth_rate)

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

    def get_config(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("filters", "norm", "activation", "weight_standardization")}
        return {**super().get_config(), **own}
