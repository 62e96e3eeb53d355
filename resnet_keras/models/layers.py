"""The parts of a block: convolution with norm and activation, squeeze-and-excitation, shortcuts, pixels in.

Images are `[N, H, W, C]`, channels last. Padding is `kernel // 2` on both sides, as in the papers' own code: Keras's
"same" pads unevenly at stride 2, which moves every feature by half a pixel and breaks published weights.
"""

import dataclasses
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
from keras import ops

from resnet_keras.errors import UsageError
from resnet_keras.models.norm_names import OLD_NORMS, Norm, rename_norm
from resnet_keras.models.normalization import normalization
from resnet_keras.models.pooling import BlurPool, Shape
from resnet_keras.models.spec import Initialization


def first_kernels(initialization: Initialization) -> keras.initializers.Initializer:
    """Normal, not truncated, with variance 2 / (kernel area x filters), or of the channels read for `fan_in`.

    He et al. 2015b, equations 14 and 10. `lecun`: LeCun et al. 1998, section 4.6, as TensorFlow 1 starts kernels.
    """
    if initialization == "lecun":
        return keras.initializers.LecunNormal()
    return keras.initializers.VarianceScaling(2.0, initialization, "untruncated_normal")


def dropped_branch(rate: float, dtype: Any, rank: int = 4) -> keras.layers.Layer:
    """Stochastic depth: training drops an image's whole branch at this rate (Huang et al. 2016).

    `rank` is the number of axes of what the branch gives.
    """
    shape = (None, *(1,) * (rank - 1))
    return keras.layers.Dropout(rate, noise_shape=shape, name="stochastic_depth", dtype=dtype)


class Composite(keras.layers.Layer):
    """A layer made of the sublayers in `layers`, which subclasses make in `build`, ending it with `restore_trainable`.

    Sublayers are made after the config is read, so the config names those that were frozen.
    """

    def __init__(self, frozen: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.frozen = tuple(frozen)

    def restore_trainable(self) -> None:
        """Freeze the sublayers that were frozen when the layer was saved."""
        for path, layer in sublayers_of(self):
            if not self.trainable or path in self.frozen:
                layer.trainable = False

    def get_config(self) -> dict[str, Any]:
        frozen = self.frozen if not self.built else [p for p, layer in sublayers_of(self) if not layer.trainable]
        return {**super().get_config(), **({"frozen": list(frozen)} if frozen and self.trainable else {})}


def sublayers_of(layer: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every layer below a model or layer, with its path: the names of the layers around it."""
    for sublayer in getattr(layer, "layers", []):
        below = f"{path}/{sublayer.name}" if path else sublayer.name
        yield below, sublayer
        yield from sublayers_of(sublayer, below)


def leaves(layer: Any) -> Iterator[tuple[str, Any]]:
    """Every layer below without sublayers of its own, with its path."""
    return ((path, sublayer) for path, sublayer in sublayers_of(layer) if not getattr(sublayer, "layers", []))


class Recomputable(Composite):
    """A layer that can forget what is inside it after the forward pass, and compute it again for the backward pass.

    Chen et al. 2016. Subclasses have `compute` for `call`; torch modules have a `forward` of their own.
    """

    rematerialize = False
    """Set by whoever trains: it changes memory and time, never a result, so no file holds it."""

    def call(self, x: Any, training: bool | None = None) -> Any:
        if not (training and self.rematerialize):
            return self.compute(x, training)
        if keras.backend.backend() != "tensorflow":
            return self._rematerialized(x, training)
        from resnet_keras.models.recomputation import recompute  # which imports TensorFlow

        return recompute(self, lambda x: self.compute(x, training), self._kind(), x)

    def _rematerialized(self, x: Any, training: bool) -> Any:
        """By `keras.remat`, of a pure function: what a norm does to its statistics comes out of it."""

        def pure(x: Any, *values: Any) -> Any:
            with keras.StatelessScope(list(zip(self.variables, values, strict=True))) as scope:
                y = self.compute(x, training)
            return y, *(ops.convert_to_tensor(scope.get_current_value(v)) for v in self.non_trainable_variables)

        # Copies of what changes: torch assigns in place, also to what it kept for the backward pass.
        values = (v.value if v.trainable else ops.copy(v) for v in self.variables)
        y, *changed = keras.remat(pure)(x, *values)
        for variable, value in zip(self.non_trainable_variables, changed, strict=True):
            variable.assign(value)
        return y

    def _kind(self) -> Hashable:
        """The same for layers that compute the same function of tensors of one shape."""
        options = {name: value for name, value in self.get_config().items() if name not in ("name", "frozen")}
        return type(self), str(options), tuple(layer.trainable for _, layer in sublayers_of(self))

    def compute(self, x: Any, training: bool | None) -> Any:
        raise NotImplementedError


class Specified(Composite):
    """A composite whose options are a frozen dataclass: `ConvNorm(64, 3)` or `ConvNorm(spec=ConvSpec(64, 3))`.

    Args:
        *args, **kwargs: fields of the spec, and Keras's own arguments (`name`, `dtype`, ...).
        spec: in place of its fields.
    """

    spec_type: ClassVar[type]

    def __init__(self, *args: Any, spec: Any = None, **kwargs: Any) -> None:
        names = [field.name for field in dataclasses.fields(self.spec_type)]
        options = {name: kwargs.pop(name) for name in names if name in kwargs}
        super().__init__(**kwargs)
        if spec is not None and (args or options):
            raise UsageError(f"give {type(self).__name__} a spec or its fields, not both")
        self.spec = self.spec_type(*args, **options) if spec is None else spec

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **dataclasses.asdict(self.spec)}


class Chain(Composite):
    """A layer that is the sublayers of `self.layers`, one after the other."""

    layers: list[keras.layers.Layer]

    def call(self, x: Any, training: bool | None = None) -> Any:
        return run(self.layers, x, training)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        if not self.built:
            self.build(input_shape)
        for layer in self.layers:
            input_shape = layer.compute_output_shape(input_shape)
        return input_shape


def build_in_turn(layers: Sequence[keras.layers.Layer], shape: Shape) -> None:
    """Build layers that follow one another; the first sees `shape`."""
    for layer in layers:
        layer.build(shape)
        shape = layer.compute_output_shape(shape)


def run(layers: Sequence[keras.layers.Layer], x: Any, training: bool | None) -> Any:
    """Apply layers in turn; `training` is passed to those that take it."""
    for layer in layers:
        x = layer(x, training=training) if isinstance(layer, TRAINING_AWARE) else layer(x)
    return x


@keras.saving.register_keras_serializable("resnet_keras")
class StandardizedConv2D(keras.layers.Conv2D):
    """A convolution whose filters have mean 0 and variance 1 when it is applied (Qiao et al. 2019)."""

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        mean, variance = ops.moments(ops.cast(kernel, "float32"), axes=[0, 1, 2], keepdims=True)
        standard = (ops.cast(kernel, "float32") - mean) * ops.rsqrt(variance + 1e-8)
        return super().convolution_op(inputs, ops.cast(standard, kernel.dtype))


@dataclass(frozen=True)
class ConvSpec:
    """A convolution, and the norm and activation behind it, which may be None."""

    filters: int
    """Channels out."""
    kernel_size: int = 3
    strides: int = 1
    """1 or 2; the output is `ceil(size / strides)`."""
    groups: int = 1
    """Groups of channels that do not mix."""
    norm: Norm | None = "batch"
    activation: str | None = None
    """Keras's name of an activation."""
    zero_init: bool = False
    """Start the norm's gamma at zero (the kernel where there is no norm), so that the output is zero."""
    dilation: int = 1
    """Pixels from one tap of the kernel to the next."""
    use_bias: bool = False
    """Add a bias before the norm."""
    antialias: bool = False
    """Convolve every pixel, and blur before the strides leave some out."""
    weight_standardization: bool = False
    initialization: Initialization = "fan_out"

    def __post_init__(self) -> None:
        rename_norm(self)


@keras.saving.register_keras_serializable("resnet_keras")
class ConvNorm(Specified, Chain):
    """Convolution, then norm, then activation: `[N, H, W, C]` to `[N, ceil(H/strides), ceil(W/strides), filters]`.

    Its arguments are the fields of `ConvSpec`. Norm and activation may be left out.
    """

    spec_type = ConvSpec
    spec: ConvSpec

    def build(self, input_shape: Shape) -> None:
        spec, dtype = self.spec, self.dtype_policy
        self.layers = []
        strides = 1 if spec.antialias else spec.strides
        pad_by_hand = strides > 1 and spec.kernel_size > 1
        if pad_by_hand:
            self.layers.append(keras.layers.ZeroPadding2D(spec.kernel_size // 2, name="pad", dtype=dtype))
        convolution = StandardizedConv2D if spec.weight_standardization else keras.layers.Conv2D
        self.layers.append(
            convolution(
                spec.filters,
                spec.kernel_size,
                strides,
                "valid" if pad_by_hand else "same",
                dilation_rate=spec.dilation,
                groups=spec.groups,
                use_bias=spec.use_bias,
                kernel_initializer="zeros" if spec.zero_init and not spec.norm else first_kernels(spec.initialization),
                name="conv",
                dtype=dtype,
            )
        )
        if spec.norm:
            gamma = "zeros" if spec.zero_init else "ones"
            self.layers.append(normalization(spec.norm, spec.filters, "norm", dtype, gamma))
        if spec.activation:
            self.layers.append(keras.layers.Activation(spec.activation, name="activation", dtype=dtype))
        if spec.antialias and spec.strides > 1:
            self.layers.append(BlurPool(spec.strides, name="blur", dtype=dtype))
        build_in_turn(self.layers, input_shape)
        self.restore_trainable()


@keras.saving.register_keras_serializable("resnet_keras")
class NormActivation(Chain):
    """Norm, then activation: what pre-activation puts before a branch and after the last stage."""

    def __init__(self, norm: Norm = "batch", activation: str = "relu", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norm: Norm = OLD_NORMS.get(norm, norm)
        self.activation = activation

    def build(self, input_shape: Shape) -> None:
        dtype = self.dtype_policy
        self.layers = [
            normalization(self.norm, int(input_shape[-1] or 0), "norm", dtype),
            keras.layers.Activation(self.activation, name="activation", dtype=dtype),
        ]
        build_in_turn(self.layers, input_shape)
        self.restore_trainable()

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "norm": self.norm, "activation": self.activation}


@keras.saving.register_keras_serializable("resnet_keras")
class SqueezeExcitation(Composite):
    """Scale each channel by a gate that has seen all of them: mean, dense, ReLU, dense, sigmoid (Hu et al. 2017).

    Args:
        ratio: hidden units as a share of the channels.
        kernel_initializer: of both dense layers; Keras's name of one.
    """

    def __init__(self, ratio: float = 1 / 16, kernel_initializer: str = "glorot_uniform", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ratio, self.kernel_initializer = ratio, kernel_initializer

    def build(self, input_shape: Shape) -> None:
        channels = int(input_shape[-1] or 0)
        common: dict[str, Any] = {"kernel_initializer": self.kernel_initializer, "dtype": self.dtype_policy}
        self.layers = [
            keras.layers.GlobalAveragePooling2D(keepdims=True, name="squeeze", dtype=self.dtype_policy),
            keras.layers.Dense(max(1, round(channels * self.ratio)), "relu", name="reduce", **common),
            keras.layers.Dense(channels, "sigmoid", name="expand", **common),
        ]
        build_in_turn(self.layers, input_shape)
        self.restore_trainable()

    def call(self, x: Any) -> Any:
        return x * run(self.layers, x, None)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        own = {} if self.kernel_initializer == "glorot_uniform" else {"kernel_initializer": self.kernel_initializer}
        return {**super().get_config(), "ratio": self.ratio, **own}


@keras.saving.register_keras_serializable("resnet_keras")
class ZeroPaddedShortcut(keras.layers.Layer):
    """Shortcut A: every `strides`-th pixel, new channels zero, half before and half after. It has no parameters.

    He et al. 2015, section 3.3, option A.
    """

    def __init__(self, filters: int, strides: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters, self.strides = filters, strides

    def call(self, x: Any) -> Any:
        new = self.filters - x.shape[-1]
        x = x[:, :: self.strides, :: self.strides, :]
        return ops.pad(x, ((0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, *sides, _ = input_shape
        return (batch, *(side and -(-side // self.strides) for side in sides), self.filters)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "filters": self.filters, "strides": self.strides}


TRAINING_AWARE = (Chain, Recomputable, keras.layers.BatchNormalization, keras.layers.Dropout)
