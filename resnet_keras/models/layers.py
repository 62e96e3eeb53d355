"""The parts of a block: convolution with norm and activation, squeeze-and-excitation, shortcuts, pixels in.

Images are `[N, H, W, C]`, channels last. Padding is `kernel // 2` on both sides, as in the papers' own code: Keras's
"same" pads unevenly at stride 2, which moves every feature by half a pixel and breaks published weights.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import keras
import tensorflow as tf
from keras import ops
from tensorflow.python.eager import record

from resnet_keras.models.normalization import normalization
from resnet_keras.models.pooling import BlurPool, Shape
from resnet_keras.models.spec import Norm


def he_normal_fan_out() -> keras.initializers.Initializer:
    """Normal with variance 2 / (kernel area x filters), not truncated (He et al. 2015b, equation 14)."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def dropped_branch(rate: float, dtype: Any) -> keras.layers.Layer:
    """Stochastic depth: training drops an image's whole branch at this rate (Huang et al. 2016)."""
    return keras.layers.Dropout(rate, noise_shape=(None, 1, 1, 1), name="stochastic_depth", dtype=dtype)


class Composite(keras.layers.Layer):
    """A layer made of the sublayers in `layers`, which subclasses make in `build`, ending it with `restore_trainable`.

    Sublayers know nothing of what was frozen before they were made, so a file says which of them were.
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

    Chen et al. 2016. Subclasses have `forward` for `call`.
    """

    rematerialize = False
    """Set by whoever trains: it changes memory and time, never a result, so no file says it."""

    def call(self, x: Any, training: bool | None = None) -> Any:
        if not (training and self.rematerialize):
            return self.forward(x, training)
        # What they are now, and not a variable that the first pass moves on.
        seeds = [(v, ops.add(v, 0)) for v in self.variables if "int" in v.dtype]
        variables = [v for v in self.variables if "int" not in v.dtype]

        # A pure function: what a norm does to its statistics comes out of it, and counts once.
        def pure(x: Any, *values: Any) -> Any:
            with keras.StatelessScope([*seeds, *zip(variables, values, strict=True)]) as scope:
                y = self.forward(x, training)
            return y, *(ops.convert_to_tensor(scope.get_current_value(v)) for v in self.non_trainable_variables)

        tensors = [x, *(ops.convert_to_tensor(v) for v in variables)]
        y, *changed = recomputed(pure, None if seeds else self._kind(tensors), *tensors)
        for variable, value in zip(self.non_trainable_variables, changed, strict=True):
            variable.assign(value)
        return y

    def _kind(self, tensors: Sequence[Any]) -> Hashable:
        """The same for layers that compute the same function of such tensors."""
        options = {name: value for name, value in self.get_config().items() if name not in ("name", "frozen")}
        learning = tuple(layer.trainable for _, layer in sublayers_of(self))
        return type(self), str(options), learning, *((tensor.dtype, tuple(tensor.shape)) for tensor in tensors)

    def forward(self, x: Any, training: bool | None) -> Any:
        raise NotImplementedError


_PASSES: WeakKeyDictionary[Any, dict[Hashable, tuple[Any, ...]]] = WeakKeyDictionary()
"""For each graph and kind of layer in it, the two passes of `recomputed`."""


def recomputed(function: Callable[..., tuple[Any, ...]], kind: Hashable, *tensors: Any) -> tuple[Any, ...]:
    """`function(*tensors)`, of which the backward pass keeps the tensors alone, and computes the rest again.

    The gradient is that of the first result. In a graph, functions of one kind are traced once and called: a net of a
    thousand layers is a few functions, where `tf.recompute_grad` would walk through all of the graph for each layer.

    Args:
        function: pure.
        kind: the same for functions that compute the same; None for one of its own.
        tensors: its arguments.
    """

    def backward(gradient: Any, *tensors: Any) -> Any:
        # Zero, but not known to be before the gradient is there: else the compiler would find the two passes to be the
        # same, and keep the first.
        some = tf.reshape(gradient, [-1])[0]
        zero = tf.where(tf.math.is_nan(some), tf.zeros_like(some), tf.minimum(tf.abs(some), tf.zeros_like(some)))
        first, *rest = tensors
        again = [first + tf.cast(zero, first.dtype), *map(tf.identity, rest)]
        with tf.GradientTape() as tape:
            tape.watch(again)
            y = function(*again)[0]
        return tape.gradient(y, again, gradient, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    passes: tuple[Any, ...] = (function, backward)
    if kind is not None and not tf.executing_eagerly():
        known = _PASSES.setdefault(tf.compat.v1.get_default_graph(), {})
        if kind not in known:
            apart: dict[str, Any] = {"autograph": False, "experimental_attributes": {"_noinline": True}}
            known[kind] = tuple(tf.function(one, **apart) for one in passes)
        passes = known[kind]

    @tf.custom_gradient
    def forward(*tensors: Any) -> Any:
        with record.stop_recording():  # else the function would hand out what its own gradient needs
            results = passes[0](*tensors)
        return tuple(results), lambda gradient, *_: passes[1](gradient, *tensors)

    return forward(*tensors)


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
    """Apply layers in turn; those that know training from inference are told which it is."""
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


@keras.saving.register_keras_serializable("resnet_keras")
class ConvNorm(Chain):
    """Convolution, then norm, then activation; norm and activation may be left out.

    Args:
        filters: channels out.
        kernel_size: side of the kernel.
        strides: 1 or 2; the output is `ceil(size / strides)`.
        groups: groups of channels that do not mix.
        norm: as in `ResNetSpec`, or None.
        activation: Keras's name of an activation, or None.
        zero_init: start the norm's gamma at zero (the kernel where there is no norm), so that the output is zero.
        dilation: pixels from one tap of the kernel to the next.
        use_bias: add a bias before the norm.
        antialias: convolve every pixel and blur before the strides leave some out.
        weight_standardization: as in `ResNetSpec`.
    """

    options = (
        "filters",
        "kernel_size",
        "strides",
        "groups",
        "norm",
        "activation",
        "zero_init",
        "dilation",
        "use_bias",
        "antialias",
        "weight_standardization",
    )

    def __init__(
        self,
        filters: int,
        kernel_size: int = 3,
        strides: int = 1,
        groups: int = 1,
        norm: Norm | None = "batch",
        activation: str | None = None,
        zero_init: bool = False,
        dilation: int = 1,
        use_bias: bool = False,
        antialias: bool = False,
        weight_standardization: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters, self.kernel_size, self.strides, self.groups = filters, kernel_size, strides, groups
        self.norm: Norm | None = norm
        self.activation, self.zero_init = activation, zero_init
        self.dilation, self.use_bias, self.antialias = dilation, use_bias, antialias
        self.weight_standardization = weight_standardization

    def build(self, input_shape: Shape) -> None:
        dtype = self.dtype_policy
        self.layers = []
        strides = 1 if self.antialias else self.strides
        pad_by_hand = strides > 1 and self.kernel_size > 1
        if pad_by_hand:
            self.layers.append(keras.layers.ZeroPadding2D(self.kernel_size // 2, name="pad", dtype=dtype))
        convolution = StandardizedConv2D if self.weight_standardization else keras.layers.Conv2D
        self.layers.append(
            convolution(
                self.filters,
                self.kernel_size,
                strides,
                "valid" if pad_by_hand else "same",
                dilation_rate=self.dilation,
                groups=self.groups,
                use_bias=self.use_bias,
                kernel_initializer="zeros" if self.zero_init and not self.norm else he_normal_fan_out(),
                name="conv",
                dtype=dtype,
            )
        )
        if self.norm:
            gamma = "zeros" if self.zero_init else "ones"
            self.layers.append(normalization(self.norm, self.filters, "norm", dtype, gamma))
        if self.activation:
            self.layers.append(keras.layers.Activation(self.activation, name="activation", dtype=dtype))
        if self.antialias and self.strides > 1:
            self.layers.append(BlurPool(self.strides, name="blur", dtype=dtype))
        build_in_turn(self.layers, input_shape)
        self.restore_trainable()

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **{name: getattr(self, name) for name in self.options}}


@keras.saving.register_keras_serializable("resnet_keras")
class NormActivation(Chain):
    """Norm, then activation: what pre-activation puts before a branch and after the last stage."""

    def __init__(self, norm: Norm = "batch", activation: str = "relu", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norm: Norm = norm
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
    """

    def __init__(self, ratio: float = 1 / 16, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ratio = ratio

    def build(self, input_shape: Shape) -> None:
        dtype, channels = self.dtype_policy, int(input_shape[-1] or 0)
        self.layers = [
            keras.layers.GlobalAveragePooling2D(keepdims=True, name="squeeze", dtype=dtype),
            keras.layers.Dense(max(1, round(channels * self.ratio)), "relu", name="reduce", dtype=dtype),
            keras.layers.Dense(channels, "sigmoid", name="expand", dtype=dtype),
        ]
        build_in_turn(self.layers, input_shape)
        self.restore_trainable()

    def call(self, x: Any) -> Any:
        return x * run(self.layers, x, None)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "ratio": self.ratio}


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


TRAINING_AWARE = (Chain, keras.layers.BatchNormalization, keras.layers.Dropout)
