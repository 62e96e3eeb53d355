"""What every builder does alike: the input with its card, the head with its weights, and the dtype of all of it."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import keras

from resnet_keras.errors import UsageError, is_whole, require, unknown
from resnet_keras.models.card import ModelCard
from resnet_keras.models.model import Model
from resnet_keras.models.preprocessing import UNCROPPED_BELOW, Preprocessing, card_layer
from resnet_keras.models.registry import NetworkSpec, hub_name, names_of
from resnet_keras.models.spec import BUILDER_ARGUMENTS, VGGSpec
from resnet_keras.models.weights.loading import load_weights


@dataclass(frozen=True)
class ModelOptions:
    """The arguments that all builders share; `build_resnet` says what each means."""

    POOLINGS: ClassVar[tuple[str, ...]] = ("avg", "max")
    include_top: bool = True
    weights: str | Path | None = None
    input_tensor: Any = None
    input_shape: tuple[int | None, ...] | None = None
    pooling: str | None = None
    classes: int = 1000
    classifier_activation: str | None = "softmax"
    include_preprocessing: bool | ModelCard = False
    name: str | None = None
    dtype: Any = None

    def __post_init__(self) -> None:
        if self.pooling is not None and self.pooling not in self.POOLINGS:
            raise unknown("pooling", self.pooling, [*self.POOLINGS, None])
        if self.classifier_activation not in (None, "linear", "softmax", "sigmoid"):
            raise unknown("classifier_activation", self.classifier_activation, ["softmax", "sigmoid", None])
        fits = not self.include_top or (is_whole(self.classes) and self.classes >= 1)
        require(fits, "classes", "a whole number of at least 1", repr(self.classes))
        if not isinstance(self.include_preprocessing, bool | ModelCard):
            raise UsageError(f"include_preprocessing is True, False or a ModelCard, not {self.include_preprocessing!r}")
        if self.name is not None and (not isinstance(self.name, str) or "/" in self.name):
            raise UsageError(f"name must be words without a slash, not {self.name!r}")
        try:
            keras.dtype_policies.get(self.dtype)
        except (ValueError, TypeError) as error:
            offered = ["float32", "bfloat16", "float16", "mixed_bfloat16", "mixed_float16", None]
            raise unknown("dtype", self.dtype, offered) from error


@contextlib.contextmanager
def dtype_policy(dtype: Any) -> Iterator[None]:
    """Set Keras's global dtype policy within a `with`; None leaves it as it is."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype or before)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def in_its_dtype(assemble: Callable[..., keras.Model]) -> Callable[..., keras.Model]:
    """Assemble a network, `assemble(spec, options, ...)`, in the dtype of its options."""

    @functools.wraps(assemble)
    def assembled(spec: Any, options: ModelOptions, *rest: Any) -> keras.Model:
        with dtype_policy(options.dtype):
            return assemble(spec, options, *rest)

    return assembled


def make_input(spec: NetworkSpec, options: ModelOptions, side: int) -> tuple[Any, Any]:
    """The input of a network and the tensor behind its preprocessing, `[N, H, W, C]`.

    Args:
        spec: says how small the input may be.
        options: the builder's.
        side: of the input where the options say none and the network has a head.
    """
    try:
        keras.activations.get(spec.activation)
    except ValueError as error:
        raise UsageError(f"unknown activation {spec.activation!r}; give Keras's name of one, such as relu") from error
    default = side if options.include_top else None
    shape: Any = options.input_shape or (default, default, 3)
    tensor = options.input_tensor
    if tensor is not None:
        if not keras.backend.is_keras_tensor(tensor):
            raise UsageError(f"input_tensor is a Keras tensor, such as keras.Input(...), not a {type(tensor).__name__}")
        shape = tuple(tensor.shape[1:])
    if not isinstance(shape, tuple | list) or not all(n is None or (isinstance(n, int) and n > 0) for n in shape):
        raise UsageError(f"input_shape is (height, width, channels), whole numbers, not {shape}")
    if len(shape) != 3 or not shape[-1]:
        raise UsageError(f"input_shape is (height, width, channels) with the channels known, not {shape}")
    least = spec.total_stride
    if any(length is not None and length < least for length in shape[:2]):
        small = ", or stem='cifar' for small images" if getattr(spec, "stem", "cifar") != "cifar" else ""
        raise UsageError(
            f"input {shape[0] or '?'}x{shape[1] or '?'} is too small: this net divides each side by {least}, "
            f"so give it {least}x{least} or more{small}"
        )
    inputs: Any = tensor if tensor is not None else keras.Input(shape, name="image")
    return inputs, _preprocessing(options.include_preprocessing, inputs.shape[1:])(inputs)


def _preprocessing(requested: bool | ModelCard, shape: Sequence[int | None]) -> Preprocessing:
    sides = [side for side in shape[:2] if side]
    # Small images, as CIFAR's, are tested as they are; ImageNet's are cropped.
    default = ModelCard(crop=1.0) if sides and max(sides) < UNCROPPED_BELOW else ModelCard()
    if requested is False:
        return Preprocessing(default, normalise=False, name="card")
    card = default if requested is True else requested
    if not card.fits(shape[-1] or 0):
        raise UsageError(
            f"the preprocessing has {len(card.mean)} means for {shape[-1]} channels; "
            "give include_preprocessing=ModelCard(mean=..., std=...)"
        )
    return Preprocessing(card, name="preprocessing")


def global_pool(x: Any, options: ModelOptions) -> Any:
    """The last stage, `[N, H, W, C]`, pooled as the options say, `[N, C]` for a head."""
    if options.include_top or options.pooling == "avg":
        return keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    return keras.layers.GlobalMaxPooling2D(name="max_pool")(x) if options.pooling == "max" else x


def add_head(spec: NetworkSpec, options: ModelOptions, inputs: Any, x: Any) -> keras.Model:
    """The model from `inputs` to the classes of the features `x`, `[N, C]`, or to `x` itself; with its weights."""
    if options.include_top:
        if spec.dropout and not isinstance(spec, VGGSpec):  # VGG drops out in its own dense layers
            x = keras.layers.Dropout(spec.dropout, name="dropout")(x)
        # Softmax of bfloat16 or float16 logits loses what training needs, so the head is float32 under every policy.
        normal, he = keras.initializers.RandomNormal, keras.initializers.HeNormal
        start = normal(stddev=spec.head_std) if spec.head_std else he()
        x = keras.layers.Dense(options.classes, kernel_initializer=start, name="logits", dtype="float32")(x)
        if options.classifier_activation not in (None, "linear"):
            x = keras.layers.Activation(options.classifier_activation, name="predictions", dtype="float32")(x)
    sources = keras.utils.get_source_inputs(inputs)
    model = Model(sources[0] if len(sources) == 1 else sources, x, name=options.name)
    layer, known = card_layer(model), names_of(spec)
    if layer and known and not layer.card.network:
        layer.card = dataclasses.replace(layer.card, network=known[0])
    if (weights := options.weights) is not None:
        weights = hub_name(spec, model.name) if weights == "imagenet" else weights
        load_weights(model, weights, set_card=not isinstance(options.include_preprocessing, ModelCard))
    return model


def split_arguments(
    name: str, arguments: dict[str, Any], kind: type[ModelOptions] = ModelOptions
) -> tuple[ModelOptions, dict[str, Any]]:
    """A builder's arguments, parted into the options that all builders share and the fields of a spec."""
    shared = {key: value for key, value in arguments.items() if key in BUILDER_ARGUMENTS}
    fields = {key: value for key, value in arguments.items() if key not in shared}
    return kind(**{**shared, "name": shared.get("name") or name}), fields
